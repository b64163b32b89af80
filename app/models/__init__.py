"""Importing this package fills SQLModel.metadata with every table."""

from app.models.audit import AuditEvent
from app.models.budget import Budget
from app.models.login import Login
from app.models.mail import Mail, OneTimeToken
from app.models.user import User

__all__ = ["AuditEvent", "Budget", "Login", "Mail", "OneTimeToken", "User"]
