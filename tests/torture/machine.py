"""Hypothesis plays everybody at once: people, a thief, administrators, the courier and the clock.

Whatever they do in whatever order, the service answers as the model says (model.py), and after
each act its tables hold what the model holds, its audit trail has grown by what happened and by
nothing else, and everybody who holds something is let in or refused as the model says.
"""

import asyncio
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime, timedelta
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch
from uuid import UUID

import time_machine
from httpx2 import ASGITransport, AsyncClient, Response
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlmodel import Session, select

from app.core.hashing import NO_PASSWORD
from app.main import create_app
from app.models import AuditEvent, Mail, OneTimeToken
from app.models import Login as LoginRow
from app.models import User as UserRow
from app.services.courier import Printer, deliver_due
from app.services.upkeep import purge
from tests.conftest import empty, make_settings
from tests.jars import ACCESS_COOKIE, DEVICE_COOKIE, REFRESH_COOKIE, claims
from tests.links import MAIL
from tests.mailbox import text_of
from tests.operations import SOME_ID
from tests.rows import change_user

from .model import (
    SESSIONS_PER_USER,
    Access,
    Account,
    Device,
    Jar,
    Link,
    Login,
    Model,
    Refresh,
    Refused,
    now,
)

T = TypeVar("T")

START = "2026-11-24T12:00:00Z"
STEP = timedelta(seconds=1)
JUMPS = [20, 61, 61, 61, 61, 16 * 60, 3660, 25 * 3600, 4 * 86400, 8 * 86400]  # seconds
FARTHEST_BACK = timedelta(minutes=30)  # from the latest time there was: budgets leak in an hour
FARTHEST_AHEAD = timedelta(days=100)

ADA, BOB, EVE, DAN = EMAILS = [f"{name}@example.com" for name in ("ada", "bob", "eve", "dan")]
PASSWORDS = ["nine tall herons at dawn", "a teapot full of gravel", "seven loud geese on ice"]
BROWSERS = ["desk", "laptop", "thief"]
PROGRAMS = ["script", "copied script"]

# Nobody asks too often: throttling is tested elsewhere.
SETTINGS = MAIL | {
    "login_attempts_per_account": 1000,
    "login_attempts_per_network": 1000,
    "mails_per_address": 1000,
    "sign_ups_per_network": 1000,
    "sessions_per_user": SESSIONS_PER_USER,
}
LINK = re.compile(r"/account/([a-z-]+)#token=([A-Za-z0-9_-]+)")
FLAGS_TO_CHANGE = ("is_active", "is_admin", "must_change_password")
FLAGS = (*FLAGS_TO_CHANGE, "email_verified")
FACTS = ("email", "full_name", *FLAGS, "password_changed_at", "last_login_at")
LONGEST_PAGE = 100
PAGES = {
    "verify-email": "verify_email",
    "reset-password": "reset_password",
    "confirm-email": "confirm_email",
}

browsers = st.sampled_from(BROWSERS)
programs = st.sampled_from(PROGRAMS)
somebody = st.integers(0, 9)  # or one of what there is
emails = st.sampled_from(EMAILS)
passwords = st.sampled_from(PASSWORDS)
# Mostly the right one, or little would ever happen.
attempts = st.sampled_from([None, None, None, None, *PASSWORDS])

Fresh = Callable[[], AbstractContextManager[str]]


class Everybody(RuleBasedStateMachine):
    """fresh: gives the URL of an empty database, for each run."""

    def __init__(self, fresh: Fresh) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.fresh = fresh
        self.jars = {name: Jar("browser") for name in BROWSERS}
        self.jars |= {name: Jar("program") for name in PROGRAMS}
        self.seen_links: list[Link] = []
        self.seen_logins: list[Login] = []
        self.audited: set[UUID] = set()

    @initialize(verified=st.booleans())
    def the_service_starts(self, verified: bool) -> None:
        """Ada is an administrator. Bob has an account. Both are logged in."""
        enter = self.stack.enter_context
        self.clock = enter(time_machine.travel(START, tick=False))
        self.latest = self.first = now()
        self.postbox = Postbox()
        enter(patch("app.services.courier.carrier_for", lambda _: self.postbox))
        settings = make_settings(enter(self.fresh()), require_verified_email=verified, **SETTINGS)
        self.loop = asyncio.new_event_loop()
        self.stack.callback(self.loop.close)
        app = create_app(settings)
        self.backend = app.state.backend
        self.stack.callback(self.backend.close)
        # TestClient would cross threads seven times a request.
        self.client = AsyncClient(transport=ASGITransport(app), base_url="https://testserver")
        self.model = Model(verified)
        for email in (ADA, BOB):
            self.register(email, PASSWORDS[0])
        self.the_courier_comes()
        for _ in EMAILS[:2]:
            self.verify_email(0)
        change_user(self.backend.database, ADA, is_admin=True)
        self.model.known(ADA).is_admin = True
        self.log_in("desk", ADA, None)
        self.log_in("laptop", BOB, None)
        self.get_tokens("script", BOB, None)

    def teardown(self) -> None:
        self.stack.close()

    # Signing up, in and out.

    @rule(email=emails, password=passwords)
    def register(self, email: str, password: str) -> None:
        answer = self.send("POST", "/auth/register", json={"email": email, "password": password})
        account = self.agree(answer, self.model.register, email, password)
        if account:
            account.id = UUID(answer.json()["id"])
        elif found := self.model.find(email):
            found.id = found.id or self.id_in_the_database(email)

    @rule(name=browsers, email=emails, password=attempts)
    def log_in(self, name: str, email: str, password: str | None) -> None:
        jar, credentials = self.jars[name], self.credentials(email, password)
        answer = self.ask(jar, "POST", "/auth/login", json=credentials)
        self.agree(answer, self.model.log_in, jar, *credentials.values())
        self.keep(jar, answer)

    @rule(name=programs, email=emails, password=attempts)
    def get_tokens(self, name: str, email: str, password: str | None) -> None:
        jar, credentials = self.jars[name], self.credentials(email, password)
        form = {"username": credentials["email"], "password": credentials["password"]}
        answer = self.send("POST", "/auth/token", data={"grant_type": "password", **form})
        self.agree(answer, self.model.get_tokens, jar, *credentials.values())
        self.keep(jar, answer)

    @rule(who=somebody)
    def refresh(self, who: int) -> None:
        self.refresh_with(self.holder(who, self.may_refresh))

    def refresh_with(self, jar: Jar) -> None:
        if jar.client_id == "program":
            token = jar.refresh.text if jar.refresh else "none"
            form = {"grant_type": "refresh_token", "refresh_token": token}
            answer = self.send("POST", "/auth/token", data=form)
        else:
            answer = self.ask(jar, "POST", "/auth/refresh")
        self.agree(answer, self.model.refresh, jar)
        self.keep(jar, answer)

    @rule(who=somebody)
    def log_out(self, who: int) -> None:
        jar = self.holder(who, self.model.identify)
        if jar.client_id == "program":
            token = jar.refresh.text if jar.refresh else "none"
            answer = self.send("POST", "/auth/revoke", data={"token": token})
        else:
            answer = self.ask(jar, "POST", "/auth/logout")
        self.agree(answer, self.model.log_out, jar)
        self.keep(jar, answer)

    @rule(who=somebody)
    def somebody_copies_a_jar(self, who: int) -> None:
        jar = self.holder(who, self.may_refresh)
        thief = "thief" if jar.client_id == "browser" else "copied script"
        self.jars[thief].copy(jar)

    @rule(who=somebody)
    def a_thief_and_the_owner_refresh_in_turn(self, who: int) -> None:
        """The second old token is the evidence."""
        self.somebody_copies_a_jar(who)
        jar = self.holder(who, self.may_refresh)
        for one in (self.jars["thief" if jar.client_id == "browser" else "copied script"], jar):
            self.the_clock_jumps_forward(61)
            self.refresh_with(one)

    # One's own account.

    @rule(who=somebody, which=somebody)
    def end_session(self, who: int, which: int) -> None:
        jar, login = self.user(who), self.seen_logins[-1 - which % len(self.seen_logins)]
        answer = self.ask(jar, "DELETE", f"/users/me/sessions/{login.id}")
        self.agree(answer, self.model.end_session, jar, login)
        self.keep(jar, answer)

    @rule(who=somebody, include_current=st.booleans())
    def end_sessions(self, who: int, include_current: bool) -> None:
        jar, query = self.user(who), {"include_current": include_current}
        answer = self.ask(jar, "DELETE", "/users/me/sessions", params=query)
        self.agree(answer, self.model.end_sessions, jar, include_current)
        self.keep(jar, answer)

    @rule(who=somebody, full_name=st.sampled_from([None, "Ada", "Bob"]))
    def rename(self, who: int, full_name: str | None) -> None:
        jar = self.user(who)
        answer = self.ask(jar, "PATCH", "/users/me", json={"full_name": full_name})
        self.agree(answer, self.model.rename, jar, full_name)

    @rule(who=somebody, password=attempts, new_password=passwords)
    def change_password(self, who: int, password: str | None, new_password: str) -> None:
        jar = self.holder(who, self.model.identify)
        given = {"current_password": self.or_the_right(password, jar), "new_password": new_password}
        answer = self.ask(jar, "PUT", "/users/me/password", json=given)
        self.agree(answer, self.model.change_password, jar, *given.values())
        self.keep(jar, answer)

    @rule(who=somebody, password=attempts, email=emails)
    def change_email(self, who: int, password: str | None, email: str) -> None:
        jar = self.user(who)
        given = {"password": self.or_the_right(password, jar), "email": email}
        answer = self.ask(jar, "PUT", "/users/me/email", json=given)
        self.agree(answer, self.model.change_email, jar, *given.values())

    @rule(who=somebody)
    def look_at_what_is_stored(self, who: int) -> None:
        """In a list, in an export, which leaves a trace, and in the trail."""
        jar = self.user(who)
        listed = self.ask(jar, "GET", "/users/me/sessions")
        current = self.agree(listed, self.model.current, jar)
        if current is None:
            return
        theirs = self.model.logins_of(current.account)
        alive = {(str(one.id), one is current) for one in theirs if not one.has_expired}
        assert {(one["id"], one["current"]) for one in listed.json()} == alive
        answer = self.ask(jar, "GET", "/users/me/export")
        self.agree(answer, self.model.export, jar)
        found = answer.json()
        assert_shown(current.account, found["user"])
        assert {one["id"] for one in found["sessions"]} == {str(one.id) for one in theirs}
        links = [link for link in self.model.links if link.account is current.account]
        assert Counter((one["purpose"], one["email"]) for one in found["links"]) == Counter(
            (link.purpose, link.email) for link in links
        )

    @rule(who=somebody, password=attempts, really=st.sampled_from([True, False, False]))
    def delete_me(self, who: int, password: str | None, really: bool) -> None:
        jar = self.user(who)
        given = self.or_the_right(password, jar) if really else "not my password"
        answer = self.ask(jar, "POST", "/users/me/delete", json={"password": given})
        self.agree(answer, self.model.delete_me, jar, given)
        self.keep(jar, answer)

    # By a mailed link.

    @rule(email=emails)
    def ask_for_reset(self, email: str) -> None:
        answer = self.send("POST", "/auth/forgot-password", json={"email": email})
        self.agree(answer, self.model.ask_for_reset, email)

    @rule(email=emails)
    def ask_for_verification(self, email: str) -> None:
        answer = self.send("POST", "/auth/verify-email/request", json={"email": email})
        self.agree(answer, self.model.ask_for_verification, email)

    @rule(which=somebody)
    def verify_email(self, which: int) -> None:
        link = self.link(which, "verify_email")
        answer = self.send("POST", "/auth/verify-email", json={"token": link.text})
        self.agree(answer, self.model.verify_email, link)

    @rule(which=somebody, password=passwords)
    def reset_password(self, which: int, password: str) -> None:
        link = self.link(which, "reset_password")
        body = {"token": link.text, "password": password}
        answer = self.send("POST", "/auth/reset-password", json=body)
        self.agree(answer, self.model.reset_password, link, password)

    @rule(which=somebody)
    def confirm_email(self, which: int) -> None:
        link = self.link(which, "confirm_email")
        answer = self.send("POST", "/users/me/email/confirm", json={"token": link.text})
        self.agree(answer, self.model.confirm_email, link)

    # Administrators, and whoever takes themselves for one.

    @rule(who=somebody, email=emails, is_admin=st.booleans())
    def invite(self, who: int, email: str, is_admin: bool) -> None:
        jar = self.admin(who)
        answer = self.ask(jar, "POST", "/users", json={"email": email, "is_admin": is_admin})
        if account := self.agree(answer, self.model.invite, jar, email, is_admin):
            account.id = UUID(answer.json()["id"])

    @rule(who=somebody, email=emails, flag=st.sampled_from(FLAGS_TO_CHANGE), value=st.booleans())
    def change_user(self, who: int, email: str, flag: str, value: bool) -> None:
        jar = self.admin(who)
        answer = self.ask(jar, "PATCH", self.url_of(email), json={flag: value})
        change = partial(self.model.change_user, jar, email, **{flag: value})
        if account := self.agree(answer, change):
            assert_shown(account, answer.json())

    @rule(who=somebody, email=emails)
    def send_reset(self, who: int, email: str) -> None:
        jar = self.admin(who)
        answer = self.ask(jar, "POST", f"{self.url_of(email)}/password-reset")
        self.agree(answer, self.model.send_reset, jar, email)

    @rule(who=somebody, email=emails)
    def end_user_sessions(self, who: int, email: str) -> None:
        jar = self.admin(who)
        answer = self.ask(jar, "DELETE", f"{self.url_of(email)}/sessions")
        self.agree(answer, self.model.end_user_sessions, jar, email)

    @rule(who=somebody, email=emails)
    def delete_user(self, who: int, email: str) -> None:
        jar = self.admin(who)
        answer = self.ask(jar, "DELETE", self.url_of(email))
        self.agree(answer, self.model.delete_user, jar, email)

    @rule(who=somebody)
    def look_at_everybody(self, who: int) -> None:
        jar = self.admin(who)
        everybody = {account.id for account in self.model.accounts}
        newest = set(sorted(self.audited)[-LONGEST_PAGE:])
        for path, wanted in (("/users", everybody), ("/audit-events", newest)):
            answer = self.ask(jar, "GET", path, params={"limit": LONGEST_PAGE})
            if self.agree(answer, self.model.admin, jar):
                assert {UUID(one["id"]) for one in answer.json()["items"]} == wanted

    # What time does.

    @rule(by=st.sampled_from(JUMPS))
    def the_clock_jumps_forward(self, by: int) -> None:
        """Past the grace period, the access token, links, mails, the idle limit."""
        if self.latest + timedelta(seconds=by) < self.first + FARTHEST_AHEAD:
            self.clock.shift(timedelta(seconds=by, microseconds=7))
            self.latest = max(self.latest, now())

    @rule(by=st.sampled_from([5, 59, 90, 600, 1800]))
    def the_clock_is_set_back(self, by: int) -> None:
        if now() - timedelta(seconds=by) > self.latest - FARTHEST_BACK:
            self.clock.shift(-timedelta(seconds=by, microseconds=11))

    @rule()
    def the_courier_comes(self) -> None:
        self.clock.shift(STEP)
        expected = self.model.deliver()
        self.postbox.messages.clear()
        assert deliver_due(self.backend) == len(expected)
        for message, sent in zip(self.postbox.messages, expected, strict=True):
            assert message["To"] == sent.recipient
            found = LINK.findall(text_of(message))
            if sent.link is None:
                assert not found
                continue
            ((page, sent.link.text),) = found
            assert PAGES[page] == sent.link.purpose
            self.seen_links.append(sent.link)

    @rule()
    def the_upkeep_comes(self) -> None:
        self.clock.shift(STEP)
        purge(self.backend.database, self.backend.settings)
        self.model.purge()

    # What always holds.

    @invariant()
    def everybody_is_let_in_or_refused_as_the_model_says(self) -> None:
        for jar in {jar.access: jar for jar in self.jars.values() if jar.access}.values():
            answer = self.ask(jar, "GET", "/users/me", tick=timedelta())
            if login := self.agree(answer, self.model.identify, jar):
                assert_shown(login.account, answer.json())

    @invariant()
    def the_tables_hold_what_the_model_holds(self) -> None:
        self.backend.database.run_read(self.compare)

    def compare(self, session: Session) -> None:
        model = self.model
        users = {row.id: facts(row) for row in session.exec(select(UserRow))}
        assert users == {account.id: facts(account) for account in model.accounts}
        logins = {row.id: (row.user_id, row.lineage) for row in session.exec(select(LoginRow))}
        assert logins == {login.id: (login.account.id, login.lineage) for login in model.logins}
        tokens = session.exec(select(OneTimeToken))
        assert Counter((row.user_id, row.purpose, row.email) for row in tokens) == Counter(
            (link.account.id, link.purpose, link.email) for link in model.links
        )
        mails = Counter((row.template, row.recipient) for row in session.exec(select(Mail)))
        assert mails == Counter((mail.template, mail.recipient) for mail in model.mails)
        events = [row for row in session.exec(select(AuditEvent)) if row.id not in self.audited]
        assert Counter(
            (row.event, row.user_id, row.actor_id, row.login_id) for row in events
        ) == Counter((event, *map(id_of, whose)) for event, *whose in model.noted)
        self.audited |= {row.id for row in events}
        model.noted.clear()

    # How it is asked, and what is learned from the answer.

    def ask(
        self, jar: Jar, method: str, path: str, *, tick: timedelta = STEP, **request: Any
    ) -> Response:
        """With whatever this browser or program holds. A little time passes before."""
        headers = {}
        if jar.client_id == "browser":
            cookies = [f"{name}={token.text}" for name, token in cookies_of(jar) if token]
            headers = {"Cookie": "; ".join(cookies)} if cookies else {}
        elif jar.access:
            headers = {"Authorization": f"Bearer {jar.access.text}"}
        self.client.cookies.clear()
        self.clock.shift(tick)
        asked = self.client.request(method, f"/api/v1{path}", headers=headers, **request)
        answer = self.loop.run_until_complete(asked)
        assert answer.status_code < 500, answer.text
        return answer

    def send(self, method: str, path: str, **request: Any) -> Response:
        """From nobody in particular."""
        return self.ask(Jar("browser"), method, path, **request)

    def agree(self, answer: Response, act: Callable[..., T], *arguments: Any) -> T | None:
        """The model does it, too. None: both refuse, for the same reason."""
        try:
            result = act(*arguments)
        except Refused as refusal:
            expected = refusal.code
        else:
            assert answer.is_success, answer.text
            return result
        assert answer.is_client_error
        told = answer.json()
        assert told.get("code", expected) == expected
        assert told.get("error", "invalid_grant") == "invalid_grant"  # by RFC 6749, for them all
        return None

    def keep(self, jar: Jar, answer: Response) -> None:
        """What the answer brings must be what the model says is held now, and no more than that."""
        given = {}
        for line in answer.headers.get_list("set-cookie"):
            name, _, rest = line.partition("=")
            given[name] = rest.partition(";")[0]
        if jar.client_id == "program" and answer.is_success and answer.content:
            body = answer.json()
            given = {ACCESS_COOKIE: body["access_token"], REFRESH_COOKIE: body["refresh_token"]}
        for name, token in cookies_of(jar):
            if text := given.get(name, ""):
                assert token, f"{name} is given unexpectedly"
                assert not token.text, f"{name} is given unexpectedly"
                token.text = text
            elif name in given:
                assert token is None, f"{name} is cleared unexpectedly"
        assert all(token.text for token in jar.tokens), "a token is missing"
        if jar.refresh and given.get(REFRESH_COOKIE):
            self.learn(jar.refresh.login, jar.refresh.text, jar.refresh.n)

    def learn(self, login: Login, token: str, n: int) -> None:
        told = claims(token)
        assert told["n"] == n
        if login.id is None:
            login.id = UUID(told["sid"])
            self.seen_logins.append(login)
        assert str(login.id) == told["sid"]

    def user(self, which: int) -> Jar:
        return self.holder(which, self.model.current)

    def admin(self, which: int) -> Jar:
        return self.holder(which, self.model.admin)

    def holder(self, which: int, wanted: Callable[[Jar], object]) -> Jar:
        """Mostly one whom the model lets do it, or little would ever happen."""
        jars = list(self.jars.values())
        able = [jar for jar in jars if is_able(jar, wanted)] if which < 8 else jars
        if not able:  # as every client does when its access token has expired
            for jar in filter(partial(is_able, wanted=self.may_refresh), jars):
                self.refresh_with(jar)
            able = [jar for jar in jars if is_able(jar, wanted)] or jars
        return able[which % len(able)]

    def may_refresh(self, jar: Jar) -> bool:
        login = jar.refresh and jar.refresh.login
        return login in self.model.logins and not login.has_expired

    def credentials(self, email: str, password: str | None) -> dict[str, str]:
        found = self.model.find(email)
        right = (found and found.password) or PASSWORDS[0]
        return {"email": email, "password": password or right}

    def or_the_right(self, password: str | None, jar: Jar) -> str:
        account = jar.access.login.account if jar.access else None
        return password or (account and account.password) or PASSWORDS[0]

    def link(self, which: int, purpose: str) -> Link:
        """Mostly one that works, or else one that did, or that was sent for something else."""
        if not self.working_links(purpose):
            self.the_courier_comes()
        working = self.working_links(purpose) if which < 8 else []
        links = working or self.seen_links
        return links[-1 - which % len(links)]

    def working_links(self, purpose: str) -> list[Link]:
        return [
            link
            for link in self.seen_links
            if link in self.model.links and link.purpose == purpose and now() < link.expires_at
        ]

    def url_of(self, email: str) -> str:
        found = self.model.find(email)
        return f"/users/{found.id if found else SOME_ID}"

    def id_in_the_database(self, email: str) -> UUID:
        statement = select(UserRow.id).where(UserRow.email == email)
        return self.backend.database.run_read(lambda session: session.exec(statement).one())


@contextmanager
def copied(template: Path, path: Path) -> Iterator[str]:
    shutil.copy(template, path)
    yield f"sqlite:///{path}"
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


@contextmanager
def emptied(url: str) -> Iterator[str]:
    yield url
    empty(url)


class Postbox(Printer):
    """Where mails go, instead of a mail server."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []

    def send(self, message: EmailMessage) -> None:
        self.messages.append(message)


def is_able(jar: Jar, wanted: Callable[[Jar], object]) -> bool:
    try:
        return bool(wanted(jar))
    except Refused:
        return False


def cookies_of(jar: Jar) -> list[tuple[str, Access | Refresh | Device | None]]:
    return [(ACCESS_COOKIE, jar.access), (REFRESH_COOKIE, jar.refresh), (DEVICE_COOKIE, jar.device)]


def assert_shown(account: Account, told: dict[str, Any]) -> None:
    shown = {
        "id": str(account.id),
        "email": account.email,
        "full_name": account.full_name,
        **{name: getattr(account, name) for name in FLAGS},
        "password_changed_at": written(account.password_changed_at),
        "last_login_at": account.last_login_at and written(account.last_login_at),
    }
    assert shown.items() <= told.items()


def written(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def facts(of: Account | UserRow) -> dict[str, Any]:
    password = of.password if isinstance(of, Account) else of.hashed_password != NO_PASSWORD
    return {name: getattr(of, name) for name in FACTS} | {"has a password": bool(password)}


def id_of(thing: Account | Login | None) -> UUID | None:
    return thing and thing.id
