"""Why the service says no: raised by the services, turned into HTTP by app/api/problems.py."""

from enum import StrEnum, auto
from typing import Any


class Reason(StrEnum):
    """The stable, machine-readable `code` of every error answer."""

    # who are you?
    NOT_AUTHENTICATED = auto()
    INVALID_CREDENTIALS = auto()
    SESSION_EXPIRED = auto()
    SESSION_REVOKED = auto()
    TOKEN_REUSED = auto()
    # not that, not from there
    CROSS_ORIGIN = auto()
    DEBUG_NOT_LOOPBACK = auto()
    FORBIDDEN = auto()
    LAST_ADMIN = auto()
    OWN_ACCOUNT = auto()
    PASSWORD_CHANGE_REQUIRED = auto()
    REGISTRATION_CLOSED = auto()
    WRONG_HOST = auto()
    WRONG_PASSWORD = auto()
    # not this input
    BAD_REQUEST = auto()
    CONTENT_TOO_LARGE = auto()
    EMAIL_TAKEN = auto()
    INVALID_ONE_TIME_TOKEN = auto()
    MAIL_NOT_CONFIGURED = auto()
    METHOD_NOT_ALLOWED = auto()
    NOT_FOUND = auto()
    PASSWORD_BREACHED = auto()
    PASSWORD_TOO_COMMON = auto()
    PASSWORD_TOO_PERSONAL = auto()
    PASSWORD_TOO_SHORT = auto()
    PASSWORD_UNCHANGED = auto()
    PREFLIGHT_REFUSED = auto()
    VALIDATION_FAILED = auto()
    # not now
    BUSY = auto()
    TOO_MANY_ATTEMPTS = auto()
    DATABASE_UNAVAILABLE = auto()
    NOT_READY = auto()
    SHUTTING_DOWN = auto()
    INTERNAL_ERROR = auto()


class Refusal(Exception):
    """An expected no. Whatever must stay (a revocation) was committed before this is raised."""

    def __init__(self, reason: Reason, **members: Any) -> None:
        """members: what the answer says besides (RFC 9457, 3.2)."""
        super().__init__(reason)
        self.reason = reason
        self.members = members
