from dataclasses import dataclass, field
from threading import Lock
from typing import Self

from app.core.config import Settings
from app.core.password_policy import PasswordPolicy
from app.core.passwords import Passwords
from app.core.tokens import Tokens
from app.db.session import Database
from app.services.throttle import Throttle


@dataclass(frozen=True, slots=True)
class Backend:
    """What one process holds: it shares nothing with another but the database."""

    settings: Settings
    database: Database
    passwords: Passwords
    tokens: Tokens
    policy: PasswordPolicy
    throttle: Throttle
    exporting: Lock = field(default_factory=Lock)

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Connects to nothing yet. Raises SettingsError for unusable files."""
        return cls(
            settings,
            Database(settings),
            Passwords(settings.hashing_threads, settings.hashing_queue),
            Tokens(settings),
            PasswordPolicy(settings),
            Throttle(settings),
        )

    def close(self) -> None:
        self.passwords.close()
        self.database.close()
