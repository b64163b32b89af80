"""authx as its guide to token pairs has it. It has no database, so the users are in memory.

It brings no password hashing either: argon2-cffi does that, with its own parameters.
"""

import os
from typing import Annotated

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from authx import AuthX, AuthXConfig, TokenPayload, TokenResponse
from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel

auth: AuthX[None] = AuthX(
    config=AuthXConfig(
        JWT_SECRET_KEY="guards nothing but the users of a benchmark",
        JWT_TOKEN_LOCATION=["headers"],
    )
)
hasher = PasswordHasher()
hashed = hasher.hash(os.environ["PASSWORD"])  # once: it is meant to be slow
users = {f"user{number}@example.com": hashed for number in range(int(os.environ["USERS"]))}

app = FastAPI()
auth.handle_errors(app)


class Credentials(BaseModel):
    username: str
    password: str


@app.post("/login", response_model=TokenResponse)
def log_in(credentials: Credentials) -> TokenResponse:
    try:
        hasher.verify(users.get(credentials.username, hashed), credentials.password)
    except VerifyMismatchError as error:
        raise HTTPException(401, "Invalid credentials") from error
    return auth.create_token_pair(uid=credentials.username)


# Its guide has plain functions; these two wait for nothing, and are faster without a thread.
@app.post("/refresh", response_model=TokenResponse)
async def refresh(
    payload: Annotated[TokenPayload, Depends(auth.refresh_token_required)],
) -> TokenResponse:
    return auth.create_token_pair(uid=payload.sub)


@app.get("/protected")
async def protected(
    payload: Annotated[TokenPayload, Depends(auth.access_token_required)],
) -> dict[str, str]:
    return {"user": payload.sub}
