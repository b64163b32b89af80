"""The current user's own account."""

from fastapi import APIRouter

from app.api.dependencies import CurrentUser
from app.api.errors import AUTHENTICATED, problems
from app.core.refusals import Reason
from app.models.user import User, UserPublic

router = APIRouter(prefix="/users/me", tags=["account"])


@router.get(
    "",
    response_model=UserPublic,
    responses=problems(*AUTHENTICATED, Reason.DATABASE_UNAVAILABLE),
)
async def read_me(user: CurrentUser) -> User:
    """Who am I?"""
    return user
