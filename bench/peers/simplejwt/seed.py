"""Create the users, after `migrate`: python -m bench.peers.simplejwt.seed COUNT PASSWORD"""

# mypy: disable-error-code="import-untyped, misc"

import sys

import django
from django.contrib.auth.hashers import make_password

django.setup()
from django.contrib.auth.models import User  # noqa: E402  (not before setup)

count, password = int(sys.argv[1]), sys.argv[2]
hashed = make_password(password)  # once: it is meant to be slow
emails = (f"user{number}@example.com" for number in range(count))
# Django's own user logs in by a name, which may be an address.
users = [User(username=email, email=email, password=hashed) for email in emails]
User.objects.bulk_create(users, batch_size=1000)
