"""Pages for the links in mails, and to log in, where no front end of the team's own has them.

Their files are in app/pages/. A link carries its token in the fragment, which no browser sends to
a server or in a Referer. The script takes it out of the address bar, and only what a person does
then, a POST by a button, uses it up: mail scanners that open links, and run scripts, do no harm.
"""

from pathlib import Path

from fastapi import Request
from fastapi.responses import FileResponse, HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.api.assets import Assets, page
from app.api.routes import group
from app.core.config import Settings

router = group("/account", include_in_schema=False)

FOLDER = Path(__file__).resolve().parent.parent / "pages"
ASSETS = Assets(FOLDER)
templates = Environment(
    loader=FileSystemLoader(FOLDER),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@router.get("/log-in")
async def log_in_page(request: Request) -> HTMLResponse:
    return _page(request, "log-in")


@router.get("/verify-email")
async def verify_email_page(request: Request) -> HTMLResponse:
    return _page(request, "verify-email")


@router.get("/reset-password")
async def reset_password_page(request: Request) -> HTMLResponse:
    """With a link's token, a new password is chosen here; without one, a link is asked for."""
    return _page(request, "reset-password")


@router.get("/confirm-email")
async def confirm_email_page(request: Request) -> HTMLResponse:
    return _page(request, "confirm-email")


@router.get("/assets/{version}/{name}")
async def page_asset(version: str, name: str) -> FileResponse:
    return ASSETS.answer(version, name)


def _page(request: Request, name: str) -> HTMLResponse:
    """Every address in it is relative, so it also works where a proxy adds a path in front."""
    settings: Settings = request.app.state.backend.settings
    html = templates.get_template(f"{name}.html").render(
        service=settings.sender.service,  # as the mails say
        version=ASSETS.version,
        password_min_length=settings.password_min_length,
    )
    return page(
        html,
        "style-src 'self'",
        "img-src data:",  # the empty icon, so that no browser asks for /favicon.ico
        "require-trusted-types-for 'script'",  # text is never taken for markup
        "trusted-types 'none'",
    )
