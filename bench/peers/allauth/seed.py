"""Create the users, after `migrate`: python -m bench.peers.allauth.seed COUNT PASSWORD"""

# mypy: disable-error-code="import-untyped, misc"

import sys

import django
from django.contrib.auth.hashers import make_password

django.setup()
from allauth.account.models import EmailAddress  # noqa: E402  (not before setup)
from django.contrib.auth.models import User  # noqa: E402

count, password = int(sys.argv[1]), sys.argv[2]
hashed = make_password(password)  # once: it is meant to be slow
names = [f"user{number}" for number in range(count)]
users = User.objects.bulk_create(
    [User(username=name, email=f"{name}@example.com", password=hashed) for name in names],
    batch_size=1000,
)
addresses = [
    EmailAddress(user=user, email=user.email, verified=True, primary=True) for user in users
]
EmailAddress.objects.bulk_create(addresses, batch_size=1000)
