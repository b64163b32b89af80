"""Create the table and the users: python -m bench.peers.template.seed COUNT PASSWORD"""

import sys
import uuid

from sqlmodel import SQLModel, insert

from bench.peers.template.app import User, engine, passwords

count, password = int(sys.argv[1]), sys.argv[2]
hashed = passwords.hash(password)  # once: it is meant to be slow
SQLModel.metadata.create_all(engine)
with engine.begin() as connection:
    rows = [
        {
            "id": uuid.uuid4(),
            "email": f"user{number}@example.com",
            "is_active": True,
            "is_superuser": False,
            "hashed_password": hashed,
        }
        for number in range(count)
    ]
    connection.execute(insert(User), rows)
