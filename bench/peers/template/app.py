"""The design of full-stack-fastapi-template, written anew: sync endpoints over SQLModel.

What it stands for: plain `def` endpoints in FastAPI's threads, a session from a generator
dependency, one long-lived access token (HS256), and a user that is loaded for every request.
"""

import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated

import jwt
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from fastapi.security import OAuth2PasswordBearer, OAuth2PasswordRequestForm
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from pwdlib.hashers.bcrypt import BcryptHasher
from pydantic import BaseModel
from sqlmodel import Field, Session, SQLModel, create_engine, select

SECRET = "guards nothing but the users of a benchmark"
ALGORITHM = "HS256"
LIFETIME = timedelta(days=8)  # the template's

# One connection for each of the load's. SQLAlchemy's own numbers, 5 and 10 more that are opened and
# closed as needed, are too few for them and would be unkind.
engine = create_engine(
    os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://"),
    pool_size=20,
    max_overflow=0,
)
# argon2 for new passwords; bcrypt is read, and replaced when somebody logs in with it.
passwords = PasswordHash((Argon2Hasher(), BcryptHasher()))


class UserBase(SQLModel):
    email: str = Field(unique=True, index=True, max_length=255)
    is_active: bool = True
    is_superuser: bool = False
    full_name: str | None = Field(default=None, max_length=255)


class User(UserBase, table=True):
    id: uuid.UUID = Field(default_factory=uuid.uuid4, primary_key=True)
    hashed_password: str


class UserPublic(UserBase):
    id: uuid.UUID


class Token(BaseModel):
    access_token: str
    token_type: str = "bearer"


class TokenPayload(BaseModel):
    sub: uuid.UUID


def get_session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


SessionDep = Annotated[Session, Depends(get_session)]
TokenDep = Annotated[str, Depends(OAuth2PasswordBearer(tokenUrl="/api/v1/login/access-token"))]


def get_current_user(session: SessionDep, token: TokenDep) -> User:
    try:
        payload = TokenPayload(**jwt.decode(token, SECRET, algorithms=[ALGORITHM]))
    except (jwt.InvalidTokenError, ValueError) as error:
        raise HTTPException(403, "Could not validate credentials") from error
    user = session.get(User, payload.sub)
    if user is None:
        raise HTTPException(404, "User not found")
    if not user.is_active:
        raise HTTPException(400, "Inactive user")
    return user


CurrentUser = Annotated[User, Depends(get_current_user)]
router = APIRouter(prefix="/api/v1")


@router.post("/login/access-token")
def log_in(session: SessionDep, form: Annotated[OAuth2PasswordRequestForm, Depends()]) -> Token:
    user = session.exec(select(User).where(User.email == form.username)).first()
    if user is None:
        raise HTTPException(400, "Incorrect email or password")
    verified, renewed = passwords.verify_and_update(form.password, user.hashed_password)
    if not verified or not user.is_active:
        raise HTTPException(400, "Incorrect email or password")
    if renewed:
        user.hashed_password = renewed
        session.add(user)
        session.commit()
    claims = {"sub": str(user.id), "exp": datetime.now(UTC) + LIFETIME}
    return Token(access_token=jwt.encode(claims, SECRET, algorithm=ALGORITHM))


@router.get("/users/me", response_model=UserPublic)
def read_me(user: CurrentUser) -> User:
    return user


app = FastAPI()
app.include_router(router)
