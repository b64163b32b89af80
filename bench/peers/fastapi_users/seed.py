"""Create the tables and the users: python -m bench.peers.fastapi_users.seed COUNT PASSWORD"""

import asyncio
import sys
import uuid

from fastapi_users.password import PasswordHelper
from sqlalchemy import insert

from bench.peers.fastapi_users.app import Base, User, engine


async def seed(count: int, password: str) -> None:
    # The package's own hasher and parameters; once, because they are meant to be slow.
    hashed = PasswordHelper().hash(password)
    rows = [
        {
            "id": uuid.uuid4(),
            "email": f"user{number}@example.com",
            "hashed_password": hashed,
            "is_active": True,
            "is_superuser": False,
            "is_verified": True,
        }
        for number in range(count)
    ]
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(insert(User), rows)
    await engine.dispose()


asyncio.run(seed(int(sys.argv[1]), sys.argv[2]))
