"""What nothing built on the same parts can exceed: trivial endpoints, without a database.

`uvicorn bench.limits:bare` is ASGI itself, `uvicorn bench.limits:app` FastAPI.
"""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Annotated, Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from pydantic import BaseModel

Message = MutableMapping[str, Any]

# What signs by each algorithm. HS256 checks with the same key, the others with its public half.
KEYS: dict[str, Any] = {
    "HS256": b"a key of the benchmark, and of nothing else",
    "RS256": rsa.generate_private_key(65537, 2048),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
}
TOKEN = "t" * 400


class Hello(BaseModel):
    hello: str


async def bare(
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    if scope["type"] != "http":
        return
    headers = [(b"content-type", b"application/json"), (b"content-length", b"17")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"hello":"world"}'})


app = FastAPI()


@app.get("/async")
async def read_async() -> Hello:
    return Hello(hello="world")


@app.get("/def")
def read_def() -> Hello:
    return Hello(hello="world")


@app.post("/cookies")
def set_two_cookies(response: Response) -> Hello:
    for name in ("__Host-access", "__Host-refresh"):
        response.set_cookie(
            name, TOKEN, max_age=900, path="/", secure=True, httponly=True, samesite="lax"
        )
    return Hello(hello="world")


def make_token(algorithm: str) -> dict[str, str]:
    now = int(time.time())
    claims = {"iss": "bench", "aud": "bench", "sub": "ada", "iat": now, "exp": now + 36000}
    return {"access_token": jwt.encode(claims, KEYS[algorithm], algorithm=algorithm)}


def checking(algorithm: str) -> Callable[[Request], Awaitable[str]]:
    """What lets in whoever has a token of this algorithm, and says who it is."""
    key = KEYS[algorithm]
    if algorithm != "HS256":
        key = key.public_key()

    async def read_token(request: Request) -> str:
        try:
            claims = jwt.decode(
                request.headers["authorization"].removeprefix("Bearer "),
                key,
                algorithms=[algorithm],
                issuer="bench",
                audience="bench",
            )
        except (KeyError, jwt.PyJWTError):
            raise HTTPException(401) from None
        subject: str = claims["sub"]
        return subject

    return read_token


def add_routes(algorithm: str) -> None:
    @app.post(f"/{algorithm}/token")
    async def log_in() -> dict[str, str]:
        return make_token(algorithm)

    @app.get(f"/{algorithm}/check")
    async def check(subject: Annotated[str, Depends(checking(algorithm))]) -> Hello:
        return Hello(hello=subject)


for _algorithm in KEYS:
    add_routes(_algorithm)
