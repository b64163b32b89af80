"""Builds the ASGI application: `uvicorn app.main:app`."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache, partial

from fastapi import FastAPI
from starlette.routing import BaseRoute

from app.api import docs, metrics, operations, pages
from app.api.boundary import Boundary
from app.api.cors import Cors
from app.api.csrf import SameOriginGate
from app.api.envelope import Envelope
from app.api.errors import install_error_handlers
from app.api.openapi import describe
from app.api.queued import Queue, QueueGate
from app.api.shortcut import Shortcut
from app.api.telemetry import TELEMETRY
from app.api.v1 import account, audit, auth, oauth2, recovery, sessions, users
from app.core.config import Settings, SettingsError, load_settings, refuse_to_start
from app.core.logs import configure_logging, logger
from app.core.metrics import FOLDER, is_one_of_several, switch_on
from app.core.refusals import Refusal
from app.db.migrations import is_migrated
from app.services.backend import Backend
from app.services.courier import Courier
from app.services.upkeep import Upkeep

DESCRIPTION = """
Sign up, log in, stay logged in safely, log out.

**Try it here.** Run `POST /auth/register`, then `POST /auth/login`: the browser now holds
HTTP-only cookies, and everything under `/users/me` works. Or press *Authorize* to log in as a
program does, with Bearer tokens.

Errors are [problem details](https://www.rfc-editor.org/rfc/rfc9457); `code` says which.
"""


def create_app(settings: Settings) -> FastAPI:
    """Raises SettingsError for unusable files."""
    if settings.enable_metrics:
        switch_on()
    backend = Backend.open(settings)
    app = FastAPI(
        title="FastAPI Auth",
        version="0.3.0",
        description=DESCRIPTION,
        openapi_url="/openapi.json" if settings.docs_enabled else None,
        docs_url=None,  # our own pages: FastAPI's load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # a redirect would send a password on to the Host header's host
        lifespan=lifespan,
        telemetry=TELEMETRY,
    )
    app.state.backend = backend

    app.router.routes.extend(
        routes(
            tokens=settings.enable_token_endpoint,
            counts=settings.enable_metrics,
            own_pages=settings.frontend_url is None,
            documented=settings.docs_enabled,
        )
    )
    app.state.queue = queue = Queue(backend.passwords, app.routes)
    app.openapi = partial(describe, app, settings)  # type: ignore[method-assign]
    install_error_handlers(app)
    # The last one added is the outermost.
    app.add_middleware(SameOriginGate, allowed_origins=settings.backend_cors_origins)
    app.add_middleware(Boundary, settings=settings)
    app.add_middleware(QueueGate, queue=queue)
    app.add_middleware(Cors, settings=settings)
    app.add_middleware(Envelope, settings=settings)
    return app


@cache  # FastAPI takes a tenth of a second for it, and the tests build thousands of applications
def routes(*, tokens: bool, counts: bool, own_pages: bool, documented: bool) -> list[BaseRoute]:
    """Those of nearly every request come first: a request is compared with one after the other."""
    groups = [auth, account, sessions, recovery]
    groups += [oauth2] if tokens else []
    groups += [audit, users, operations]
    groups += [metrics] if counts else []
    groups += [pages] if own_pages else []
    groups += [docs] if documented else []
    return [route for group in groups for route in group.router.routes]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Shortcut]]:
    """Gives what app/protocol.py may use."""
    configure_logging()
    backend: Backend = app.state.backend
    backend.passwords.start_hasher()
    try:
        if not await backend.database.read(is_migrated):
            logger.warning("The database lacks a migration. Run: alembic upgrade head")
    except Refusal as refusal:
        logger.warning("The database does not answer yet: %s", refusal.__cause__)
    if backend.settings.enable_metrics and is_one_of_several():
        logger.warning("/metrics tells what one of several processes counted: set %s.", FOLDER)
    backend.database.after_write = Upkeep(backend.database, backend.settings).after_write
    courier = Courier(backend)
    courier.start()
    queue: Queue = app.state.queue
    yield {"shortcut": Shortcut(queue, backend.settings)}
    queue.tell()
    await asyncio.to_thread(courier.stop)
    backend.close()


try:
    app = create_app(load_settings())
except SettingsError as error:
    refuse_to_start(str(error))

# What there is by now stays: to look through it for garbage, again and again, would stop every
# request for as long as 50 milliseconds.
gc.freeze()
