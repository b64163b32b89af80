"""fastapi-users the way its full example builds it, on asyncpg.

Both of its kinds of token are here, each below a prefix of its own: `/jwt`, whose tokens are signed
and looked up nowhere, and `/database`, whose tokens are rows and can be revoked.
"""

import os
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from fastapi_users import BaseUserManager, FastAPIUsers, UUIDIDMixin, schemas
from fastapi_users.authentication import AuthenticationBackend, BearerTransport, JWTStrategy
from fastapi_users.authentication.strategy.db import AccessTokenDatabase, DatabaseStrategy
from fastapi_users.db import SQLAlchemyBaseUserTableUUID, SQLAlchemyUserDatabase
from fastapi_users_db_sqlalchemy.access_token import (
    SQLAlchemyAccessTokenDatabase,
    SQLAlchemyBaseAccessTokenTableUUID,
)
from sqlalchemy import Index, func
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

SECRET = "guards nothing but the users of a benchmark"
LIFETIME = 3600  # seconds, as in the example

# One connection for each of the load's. SQLAlchemy's own numbers, 5 and 10 more that are opened and
# closed as needed, are too few for them and would be unkind.
engine = create_async_engine(
    os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://"),
    pool_size=20,
    max_overflow=0,
)
sessions = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    pass


class User(SQLAlchemyBaseUserTableUUID, Base):
    pass


class AccessToken(SQLAlchemyBaseAccessTokenTableUUID, Base):
    pass


# The package looks for lower(email) and has no index for that: whoever has many users adds one.
Index("user_lower_email", func.lower(User.email))


class UserRead(schemas.BaseUser[uuid.UUID]):
    pass


class UserUpdate(schemas.BaseUserUpdate):
    pass


class UserManager(UUIDIDMixin, BaseUserManager[User, uuid.UUID]):
    reset_password_token_secret = SECRET
    verification_token_secret = SECRET


async def get_session() -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        yield session


SessionDep = Annotated[AsyncSession, Depends(get_session)]


async def get_user_manager(session: SessionDep) -> AsyncIterator[UserManager]:
    yield UserManager(SQLAlchemyUserDatabase(session, User))


async def get_tokens(session: SessionDep) -> AsyncIterator[AccessTokenDatabase[AccessToken]]:
    yield SQLAlchemyAccessTokenDatabase(session, AccessToken)


def jwt_strategy() -> JWTStrategy[User, uuid.UUID]:
    return JWTStrategy(secret=SECRET, lifetime_seconds=LIFETIME)


def database_strategy(
    tokens: Annotated[AccessTokenDatabase[AccessToken], Depends(get_tokens)],
) -> DatabaseStrategy[User, uuid.UUID, AccessToken]:
    return DatabaseStrategy(tokens, lifetime_seconds=LIFETIME)


app = FastAPI()
strategies: dict[str, Any] = {"jwt": jwt_strategy, "database": database_strategy}
for name, strategy in strategies.items():
    backend: AuthenticationBackend[User, uuid.UUID] = AuthenticationBackend(
        name=name, transport=BearerTransport(tokenUrl=f"{name}/login"), get_strategy=strategy
    )
    users = FastAPIUsers[User, uuid.UUID](get_user_manager, [backend])
    app.include_router(users.get_auth_router(backend), prefix=f"/{name}")
    app.include_router(users.get_users_router(UserRead, UserUpdate), prefix=f"/{name}/users")
