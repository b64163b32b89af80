"""Importing this package fills SQLModel.metadata with every table."""

from app.models.login import Login
from app.models.user import User

__all__ = ["Login", "User"]
