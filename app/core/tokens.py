"""Access and refresh tokens: JWTs that say which login they belong to, and nothing personal."""

import time
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from app.core.config import Settings
from app.core.identifiers import new_id
from app.core.jws import InvalidToken, Signature
from app.core.keys import access_keys, derived_keys
from app.core.moments import to_microseconds

END_OF_TIME = 2**53  # microseconds: the year 2255
CLOCK_SKEW = 60  # seconds that another server's clock may be ahead of ours

ACCESS_CLAIMS = {"iss", "aud", "sub", "client_id", "sid", "iat", "exp", "jti"}
REFRESH_CLAIMS = {"iss", "aud", "client_id", "sid", "n", "exp"}
DEVICE_CLAIMS = {"iss", "aud", "client_id", "sub", "did", "n", "exp"}
DEVICE_LIFETIME = timedelta(days=365)


class ClientId(StrEnum):
    """How a login's tokens travel, fixed when it starts (RFC 9068 claim `client_id`)."""

    BROWSER = "browser"  # HTTP-only cookies
    PROGRAM = "program"  # JSON bodies and the Bearer header


CLIENT_IDS = tuple(ClientId)


class AccessToken(NamedTuple):
    user_id: UUID
    login_id: UUID


class RefreshToken(NamedTuple):
    login_id: UUID
    client_id: ClientId
    n: int  # when it was issued, in microseconds since 1970 (docs/rotation.md)


class DeviceToken(NamedTuple):
    """A browser that this user has logged in with before. It proves nothing else."""

    user_id: UUID
    device_id: UUID
    n: int  # when it was issued, in microseconds since 1970


class Tokens:
    """Signs and reads the tokens of one deployment. Raises SettingsError for unusable key files."""

    def __init__(self, settings: Settings) -> None:
        self.access_keys = access_keys(settings)
        self._access = Signature(self.access_keys, "at+jwt")
        self._refresh = Signature(derived_keys(settings, "refresh"), "rt+jwt")
        self._device = Signature(derived_keys(settings, "device"), "dt+jwt")
        self._issuer = settings.issuer
        self._audience = settings.audience
        self._access_lifetime = int(settings.access_lifetime.total_seconds())

    def issue_access(
        self, user_id: UUID, login_id: UUID, client_id: ClientId, login_ends_at: datetime
    ) -> tuple[str, datetime]:
        """RFC 9068, and when it expires: it never outlives its login."""
        now = int(time.time())
        expires_at = min(now + self._access_lifetime, int(login_ends_at.timestamp()))
        claims = {
            "sub": str(user_id),
            "client_id": client_id,
            "sid": str(login_id),
            "iat": now,
            "exp": expires_at,
            "jti": new_id().hex,
        }
        token = self._sign(self._access, claims)
        return token, datetime.fromtimestamp(expires_at, UTC)

    def read_access(self, token: str) -> AccessToken:
        """Raises InvalidToken."""
        claims = self._verify(self._access, ACCESS_CLAIMS, token)
        if claims["exp"] <= time.time() or type(claims["jti"]) is not str:
            raise InvalidToken
        return AccessToken(read_id(claims["sub"]), read_id(claims["sid"]))

    def issue_refresh(
        self, login_id: UUID, client_id: ClientId, n: int, expires_at: datetime
    ) -> str:
        """It expires when its login must end at the latest; the idle limit is the row's."""
        claims = {
            "client_id": client_id,
            "sid": str(login_id),
            "n": n,
            "exp": int(expires_at.timestamp()),
        }
        return self._sign(self._refresh, claims)

    def read_refresh(self, token: str) -> RefreshToken:
        """Its age is not judged here: evidence comes before expiry (docs/rotation.md).

        Raises InvalidToken.
        """
        claims = self._verify(self._refresh, REFRESH_CLAIMS, token)
        n = read_moment(claims["n"])
        return RefreshToken(read_id(claims["sid"]), ClientId(claims["client_id"]), n)

    def issue_device(self, user_id: UUID, device_id: UUID, now: datetime) -> str:
        claims = {
            "client_id": ClientId.BROWSER,
            "sub": str(user_id),
            "did": str(device_id),
            "n": to_microseconds(now),
            "exp": int((now + DEVICE_LIFETIME).timestamp()),
        }
        return self._sign(self._device, claims)

    def read_device(self, token: str) -> DeviceToken:
        """Raises InvalidToken."""
        claims = self._verify(self._device, DEVICE_CLAIMS, token)
        if claims["exp"] <= time.time():
            raise InvalidToken
        n = read_moment(claims["n"])
        return DeviceToken(read_id(claims["sub"]), read_id(claims["did"]), n)

    def login_of(self, token: str) -> UUID | None:
        """The login that a token of either type belongs to, expired or not: to end it."""
        for signature, required in (
            (self._refresh, REFRESH_CLAIMS),
            (self._access, ACCESS_CLAIMS),
        ):
            try:
                return read_id(self._verify(signature, required, token)["sid"])
            except InvalidToken:
                continue
        return None

    def _sign(self, signature: Signature, claims: dict[str, Any]) -> str:
        return signature.sign({"iss": self._issuer, "aud": self._audience, **claims})

    def _verify(self, signature: Signature, required: set[str], token: str) -> dict[str, Any]:
        """Everything but `exp`, whose meaning depends on the type."""
        claims = signature.verify(token)
        if (
            not required <= claims.keys()
            or (claims["iss"], claims["aud"]) != (self._issuer, self._audience)
            or type(claims["exp"]) is not int
            or claims["client_id"] not in CLIENT_IDS
            or not all(is_past(claims.get(name, 0)) for name in ("iat", "nbf"))
        ):
            raise InvalidToken
        return claims


def is_past(moment: object) -> bool:
    return type(moment) is int and moment <= time.time() + CLOCK_SKEW


def read_id(value: object) -> UUID:
    try:
        return UUID(value if isinstance(value, str) else None)
    except (TypeError, ValueError):
        raise InvalidToken from None


def read_moment(value: object) -> int:
    if type(value) is not int or not 0 <= value < END_OF_TIME:
        raise InvalidToken
    return value
