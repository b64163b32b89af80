"""The commands of `python -m app`, in the order in which a newcomer needs them.

What a command needs is imported inside it: `help` is instant, and the developer's commands
run where the service's packages are not installed. Nothing imports this module.
"""

import argparse
import asyncio
import getpass
import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from app import developer

if TYPE_CHECKING:
    from alembic.config import Config

    from app.core.config import Settings
    from app.core.refusals import Refusal
    from app.services.backend import Backend

ROOT = Path(__file__).parents[1]
ENV_FILE = Path(".env")  # where Settings looks for it

T = TypeVar("T")


def main(argv: Sequence[str] | None = None) -> int:
    parser = command_parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command is not test:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.rest = rest
    try:
        return int(arguments.command(arguments) or 0)
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("app", "tests"):
            raise
        sys.exit(
            f"The package {error.name} is not installed here ({sys.executable}): install "
            "requirements.txt (`make run`) or requirements-dev.txt (`make test`)."
        )


def command_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(
        name: str, command: Callable[[argparse.Namespace], int | None], does: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")
        added.set_defaults(command=command)
        return added

    add("help", lambda _: parser.print_help(), "show this list")
    add("setup", set_up, "write .env with a random SECRET_KEY where there is none, and migrate")
    command = add("run", run, "serve the API")
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    command.add_argument("--port", type=port, default=8000, help="(%(default)s)")
    command.add_argument("--workers", type=int, help="processes (1, or WEB_CONCURRENCY)")
    command.add_argument("--reload", action="store_true", help="start again when app/ changes")
    add("migrate", migrate, "bring the database to the newest migration")
    add("downgrade", downgrade, "undo the newest migration")
    command = add("migration", migration, "write a migration for changed models")
    command.add_argument("-m", "--message", required=True, help="what changes, as a file name")
    command = add("create-admin", create_admin, "make an administrator, asking for a password")
    command.add_argument("email", help="the password is asked for, or read from standard input")
    command = add("reset-link", reset_link, "print a link to choose a new password, to hand over")
    command.add_argument("email", help="whose account it is")
    add("purge", purge, "delete what has expired")
    add("after-restore", after_restore, "void the mailed links that a restored backup revived")
    add("doctor", examine, "show the configuration, and what is wrong with it")
    command = add("keygen", keygen, "write a private key for SIGNING_KEY_FILE")
    command.add_argument("file", type=Path, help="a file that is not there yet")
    command.add_argument("--algorithm", choices=["EdDSA", "ES256"], default="EdDSA")

    add("test", test, "run the tests; further arguments go to pytest")
    add(
        "check", lambda _: developer.check(), "what CI runs: lint, format, types, migrations, tests"
    )
    add("lint", lambda _: developer.lint(), "find mistakes")
    add("format", lambda _: developer.format_code(), "lay out the code")
    add("types", lambda _: developer.types(), "check types")
    command = add("lock", lambda given: developer.lock(given.upgrade), "pin the requirements again")
    command.add_argument("--upgrade", action="store_true", help="to the newest versions")
    add("clean", lambda _: developer.clean(), "remove caches")
    return parser


def port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 1 to 65535")
    return int(text)


def set_up(arguments: argparse.Namespace) -> None:
    write_env_file()
    migrate(arguments)


def write_env_file() -> None:
    """A secret of its own for each copy; one that is there already stays as it is."""
    if ENV_FILE.exists() or "SECRET_KEY" in os.environ:
        return
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    key = f"SECRET_KEY={secrets.token_hex(32)}"
    lines = [key if line.startswith("SECRET_KEY=") else line for line in lines]
    # Readable by its owner from the first moment, and never over a file that somebody else wrote.
    descriptor = os.open(ENV_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    print("Wrote .env from .env.example, with a random SECRET_KEY.")


def run(arguments: argparse.Namespace) -> None:
    from app.server import serve

    serve(arguments.host, arguments.port, workers=arguments.workers, reload=arguments.reload)


def migrate(_: argparse.Namespace) -> None:
    with_alembic(lambda command, config: command.upgrade(config, "head"))
    print("The database has every migration.")


def downgrade(_: argparse.Namespace) -> None:
    with_alembic(lambda command, config: command.downgrade(config, "-1"))
    print("The newest migration is undone.")


def migration(given: argparse.Namespace) -> None:
    if not given.message.strip():
        sys.exit('Say what changes: make migration m="add nickname"')
    with_alembic(lambda command, config: command.revision(config, given.message, autogenerate=True))


def with_alembic(work: Callable[[Any, "Config"], object]) -> None:
    """Gives `work` the module alembic.command and our configuration."""
    # These first: where the package is missing, our own folder alembic/ would pass for it.
    from app.core.config import load_settings
    from app.db.migrations import alembic_config

    load_settings()
    from alembic import command
    from alembic.util import CommandError
    from sqlalchemy.exc import OperationalError

    try:
        work(command, alembic_config())
    except CommandError as error:
        sys.exit(f"Alembic: {error}")
    except OperationalError as error:
        sys.exit(f"The database does not answer: {str(error.orig).strip()}")


def create_admin(arguments: argparse.Namespace) -> None:
    from pydantic import ValidationError

    from app.models.user import UserCreate
    from app.services.console import create_admin, promote

    email = read_email(arguments.email)
    if with_backend(lambda backend: asyncio.run(promote(backend, email))):
        print(f"{email} had an account, and is an administrator now.")
        return
    password = read_password()
    try:
        new_user = UserCreate(email=email, password=password)
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            name = ".".join(str(part) for part in problem["loc"])
            print(f"{name}: {problem['msg'].removeprefix('Value error, ')}", file=sys.stderr)
        sys.exit(1)
    with_backend(lambda backend: asyncio.run(create_admin(backend, new_user)))
    print(f"{new_user.email} is an administrator and can log in.")


def read_email(text: str) -> str:
    from app.models.user import canonical_email

    if not text:
        sys.exit("Say whose account: make admin email=you@example.com")
    try:
        return canonical_email(text)
    except ValueError as error:
        sys.exit(f"email: {error}")


def read_password() -> str:
    """Never an argument: those are in the shell's history and in the list of processes."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Once more: ") != password:
        sys.exit("The two were not the same, so nothing was changed.")
    return password


def reset_link(arguments: argparse.Namespace) -> None:
    from app.core.config import load_settings
    from app.services.console import make_reset_link

    email = read_email(arguments.email)
    settings = load_settings()
    if not (settings.debug or settings.public_url or settings.frontend_url):
        sys.exit(
            "PUBLIC_URL is missing: put there where this service is reached, such as "
            "https://auth.example.com, so that the link leads there."
        )
    link = with_backend(lambda backend: asyncio.run(make_reset_link(backend, email)))
    if link is None:
        sys.exit(f"There is no account with the address {email}.")
    print(f"It works once, for an hour:\n{link}")


def purge(_: argparse.Namespace) -> None:
    from app.services import upkeep

    print_counts(with_backend(lambda backend: upkeep.purge(backend.database, backend.settings)))


def after_restore(_: argparse.Namespace) -> None:
    from app.services.console import void_restored_links

    print_counts(with_backend(lambda backend: backend.database.run_write(void_restored_links)))


def print_counts(counts: Mapping[str, int]) -> None:
    for kind, count in counts.items():
        print(f"{count:9} {kind.replace('_', ' ')}")


def with_backend(work: "Callable[[Backend], T]") -> T:
    from app.core.config import SettingsError, load_settings
    from app.core.refusals import Refusal
    from app.services.backend import Backend

    settings = load_settings()
    try:
        backend = Backend.open(settings)
    except SettingsError as error:
        sys.exit(str(error))
    try:
        return work(backend)
    except Refusal as refusal:
        sys.exit(explain(refusal, settings))
    finally:
        backend.close()


def explain(refusal: "Refusal", settings: "Settings") -> str:
    from app.core.refusals import Reason

    sentences = {
        Reason.PASSWORD_TOO_SHORT: f"The password needs {settings.password_min_length} characters "
        "or more (PASSWORD_MIN_LENGTH).",
        Reason.PASSWORD_TOO_COMMON: "Many people use that password: choose another one.",
        Reason.PASSWORD_TOO_PERSONAL: "The password is made of an address, a name or a word of "
        "this service's: choose another one.",
        Reason.PASSWORD_BREACHED: "The password is in BREACHED_PASSWORDS_FILE: choose another one.",
        Reason.FORBIDDEN: "The account is disabled: an administrator has to enable it first.",
        Reason.EMAIL_TAKEN: "Somebody has just signed up with this address: try once more.",
        Reason.NOT_READY: "The database lacks migrations: run `python -m app migrate`.",
        Reason.DATABASE_UNAVAILABLE: "The database does not answer: `python -m app doctor` "
        "says more.",
    }
    return sentences.get(refusal.reason, f"Refused: {refusal.reason}.")


def examine(_: argparse.Namespace) -> int:
    from app.doctor import examine

    return examine(ENV_FILE)


def keygen(arguments: argparse.Namespace) -> None:
    from app.core.keys import generate_key

    try:
        descriptor = os.open(arguments.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        sys.exit(f"{arguments.file} cannot be written: {error.strerror}.")
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(generate_key(arguments.algorithm))
    print(f"Put into .env:\nALGORITHM={arguments.algorithm}\nSIGNING_KEY_FILE={arguments.file}")


def test(arguments: argparse.Namespace) -> int:
    return developer.run_tests(arguments.rest)
