"""Every peer that we are measured against: how it is started and filled, and what it is asked.

Each is a small app of ours on the published package, as the package's documentation advises for
production: one worker process, connections to the database that are kept, no debug mode, no access
log. The passwords are hashed with the parameters that the package's users get.
"""

from pathlib import Path
from urllib.parse import quote_plus

from bench.contender import PASSWORD, Contender, Request

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent  # the apps are modules: bench.peers.authx.app

# What a log-in costs is mostly this, and every package has its own idea of it.
ARGON2_CFFI = "Passwords: argon2id, 64 MiB, 3 passes, 4 lanes (argon2-cffi's own numbers)."
ARGON2_DJANGO = "Passwords: argon2id, 100 MiB, 2 passes, 8 lanes (Django's own numbers)."

JSON = {"Content-Type": "application/json"}
BEARER = {"Authorization": "Bearer {access}"}
DATABASE = {"DATABASE_URL": "{database}"}
EMAIL = "@example.com"  # in every answer that tells who somebody is


def uvicorn(app: str) -> tuple[str, ...]:
    """uvloop and httptools are installed, so uvicorn takes them."""
    address = ("--host", "127.0.0.1", "--port", "{port}")
    return ("{python}", "-m", "uvicorn", app, *address, "--no-access-log")


DJANGO = ("python:django", "python:gunicorn", "python:psycopg")


def seed(module: str) -> tuple[str, ...]:
    return ("{python}", "-m", module, "{users}", "{password}")


def form_log_in(path: str) -> Request:
    """OAuth 2's form, which FastAPI brings."""
    return Request(
        "POST",
        path,
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        body=f"username={{email}}&password={quote_plus(PASSWORD)}",
        contains="access_token",
        take={"access": "json:access_token"},
    )


def fastapi_users(strategy: str, title: str, note: str) -> Contender:
    log_in = form_log_in(f"/{strategy}/login")
    return Contender(
        name=f"fastapi_users_{strategy}",
        title=f"fastapi-users ({title})",
        serve=uvicorn("bench.peers.fastapi_users.app:app"),
        prepare=(seed("bench.peers.fastapi_users.seed"),),
        environment=DATABASE,
        folder=ROOT,
        needs=("python:fastapi_users", "python:asyncpg"),
        log_in=log_in,
        works={
            "login": log_in,
            "me": Request("GET", f"/{strategy}/users/me", BEARER, contains=EMAIL),
        },
        note=f"{note} {ARGON2_CFFI}",
    )


TEMPLATE_LOG_IN = form_log_in("/api/v1/login/access-token")
TEMPLATE = Contender(
    name="template",
    title="full-stack-fastapi-template (its design)",
    serve=uvicorn("bench.peers.template.app:app"),
    prepare=(seed("bench.peers.template.seed"),),
    environment=DATABASE,
    folder=ROOT,
    needs=("python:sqlmodel", "python:psycopg", "python:pwdlib"),
    log_in=TEMPLATE_LOG_IN,
    works={
        "login": TEMPLATE_LOG_IN,
        "me": Request("GET", "/api/v1/users/me", BEARER, contains=EMAIL),
    },
    note="Written anew after the template's design: sync SQLModel, a token for eight days that "
    f"cannot be revoked, no refresh. {ARGON2_CFFI}",
)


def gunicorn(settings: str) -> tuple[str, ...]:
    """Threads, so that connections stay open: the sync worker closes each after one answer."""
    # Idle connections live longer than the 2 seconds for servers without a proxy in front.
    kept = ("--keep-alive", "75")
    worker = ("--workers", "1", "--worker-class", "gthread", "--threads", "4", *kept)
    # A control socket in the home directory would be shared by all; and it shall end soon.
    process = ("--no-control-socket", "--graceful-timeout", "5")
    address = ("--bind", "127.0.0.1:{port}", "--env", f"DJANGO_SETTINGS_MODULE={settings}")
    return ("{python}", "-m", "gunicorn", "bench.peers.django_wsgi", *worker, *process, *address)


MIGRATE = ("{python}", "-m", "django", "migrate", "--verbosity", "0")

SIMPLEJWT_LOG_IN = Request(
    "POST",
    "/api/token/",
    JSON,
    body=f'{{"username": "{{email}}", "password": "{PASSWORD}"}}',
    contains="access",
    take={"access": "json:access", "refresh": "json:refresh"},
)
SIMPLEJWT = Contender(
    name="simplejwt",
    title="Django + simplejwt, rotation and blacklist",
    serve=gunicorn("bench.peers.simplejwt.settings"),
    prepare=(MIGRATE, seed("bench.peers.simplejwt.seed")),
    environment=DATABASE | {"DJANGO_SETTINGS_MODULE": "bench.peers.simplejwt.settings"},
    folder=ROOT,
    needs=("python:rest_framework", "python:rest_framework_simplejwt", *DJANGO),
    log_in=SIMPLEJWT_LOG_IN,
    works={
        "login": SIMPLEJWT_LOG_IN,
        "refresh": Request(
            "POST",
            "/api/token/refresh/",
            JSON,
            body='{"refresh": "{refresh}"}',
            contains="access",
            take={"refresh": "json:refresh"},
            renews="refresh",
        ),
        "me": Request("GET", "/api/me/", BEARER, contains=EMAIL),
        "check": Request("GET", "/api/check/", BEARER, contains="user"),
    },
    note="A refresh puts the old token onto the blacklist, and the new one on record. "
    f"{ARGON2_DJANGO}",
)

ALLAUTH = "/_allauth/app/v1"
ALLAUTH_LOG_IN = Request(
    "POST",
    f"{ALLAUTH}/auth/login",
    JSON,
    body=f'{{"email": "{{email}}", "password": "{PASSWORD}"}}',
    contains="access_token",
    take={"access": "json:access_token", "refresh": "json:refresh_token"},
)
DJANGO_ALLAUTH = Contender(
    name="allauth",
    title="django-allauth headless",
    serve=gunicorn("bench.peers.allauth.settings"),
    prepare=(MIGRATE, seed("bench.peers.allauth.seed")),
    environment=DATABASE | {"DJANGO_SETTINGS_MODULE": "bench.peers.allauth.settings"},
    folder=ROOT,
    needs=("python:rest_framework", "python:allauth", *DJANGO),
    log_in=ALLAUTH_LOG_IN,
    works={
        "login": ALLAUTH_LOG_IN,
        "refresh": Request(
            "POST",
            f"{ALLAUTH}/tokens/refresh",
            JSON,
            body='{"refresh_token": "{refresh}"}',
            contains="access_token",
            take={"refresh": "json:refresh_token"},
            renews="refresh",
        ),
        "me": Request("GET", "/api/me/", BEARER, contains=EMAIL),
    },
    note="Its JWT strategy, HS256, with rotation; its limits of attempts are on, but raised. "
    "Who am I is a view behind its authentication: its own endpoint is slower, with three queries. "
    f"{ARGON2_DJANGO}",
)

AUTHX_LOG_IN = Request(
    "POST",
    "/login",
    JSON,
    body=f'{{"username": "{{email}}", "password": "{PASSWORD}"}}',
    contains="access_token",
    take={"access": "json:access_token", "refresh": "json:refresh_token"},
)
AUTHX = Contender(
    name="authx",
    title="authx (no database)",
    serve=uvicorn("bench.peers.authx.app:app"),
    environment={"USERS": "{users}", "PASSWORD": "{password}"},
    folder=ROOT,
    needs=("python:authx", "python:argon2"),
    log_in=AUTHX_LOG_IN,
    works={
        "login": AUTHX_LOG_IN,
        "refresh": Request(
            "POST",
            "/refresh",
            {"Authorization": "Bearer {refresh}"},
            contains="access_token",
            take={"refresh": "json:refresh_token"},
            renews="refresh",
        ),
        "check": Request("GET", "/protected", BEARER, contains=EMAIL),
    },
    note="It brings neither users nor hashing: the users are in memory, and argon2-cffi checks. "
    f"A refresh makes two tokens and revokes none; who am I needs a database. {ARGON2_CFFI}",
)

SESSION = "/api/auth/get-session"
COOKIE = {"Cookie": "{cookie}"}
BETTER_AUTH_LOG_IN = Request(
    "POST",
    "/api/auth/sign-in/email",
    JSON | {"Origin": "https://app.example.com"},
    body=f'{{"email": "{{email}}", "password": "{PASSWORD}"}}',
    contains=EMAIL,
    take={"cookie": "json:cookie"},
)
BETTER_AUTH = Contender(
    name="better_auth",
    title="better-auth on Node",
    serve=("node", "server.js", "{port}"),
    prepare=(("node", "seed.js", "{users}", "{password}"),),
    environment=DATABASE | {"NODE_ENV": "production"},
    folder=HERE / "better_auth",
    needs=("node:better-auth", "node:pg"),
    log_in=BETTER_AUTH_LOG_IN,
    works={
        "login": BETTER_AUTH_LOG_IN,
        "refresh": Request(
            "GET",
            f"{SESSION}?disableCookieCache=true",
            COOKIE,
            contains=EMAIL,
            take={"expires": "json:expiresAt"},
            renews="expires",
        ),
        "me": Request(
            "GET",
            f"{SESSION}?disableCookieCache=true&disableRefresh=true",
            COOKIE,
            contains=EMAIL,
        ),
        "check": Request("GET", SESSION, COOKIE, contains=EMAIL),
    },
    note="A refresh slides: it moves the end of the session, and the token stays. The check reads "
    "its cookie cache. Its rate limit is on, but raised. Passwords: scrypt, N=16384, r=16, p=1.",
)

PEERS: tuple[Contender, ...] = (
    fastapi_users("jwt", "JWT", "A token for an hour that cannot be revoked; no refresh."),
    fastapi_users("database", "database tokens", "A row per token, for an hour; no refresh."),
    TEMPLATE,
    SIMPLEJWT,
    DJANGO_ALLAUTH,
    AUTHX,
    BETTER_AUTH,
)
