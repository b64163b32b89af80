"""The current user's own account."""

from fastapi import APIRouter

from app.api.dependencies import CurrentUser
from app.api.problems import AUTHENTICATED, DATABASE, problems
from app.models.user import User, UserPublic

router = APIRouter(prefix="/users/me", tags=["account"])


@router.get(
    "",
    response_model=UserPublic,
    responses=problems(*AUTHENTICATED, *DATABASE),
)
async def read_me(user: CurrentUser) -> User:
    """Who am I?"""
    return user
