"""Everything that can happen in the service: what somebody does, and the audit event of it."""

from collections.abc import Callable
from typing import NamedTuple

from fastapi.testclient import TestClient
from httpx2 import Response

from app.models.audit import Event
from app.models.mail import Purpose
from tests.admins import USERS, change, invite, sign_up_admin, sign_up_other, url_of
from tests.conftest import ClientFactory
from tests.jars import other_browser, present, refresh_token
from tests.links import forgot, mint, reset, verify
from tests.people import ADA, BOB, log_in, log_out, refresh, register

ME = f"{USERS}/me"
NEW = "seven loud geese on ice"
CLEO = {"email": "cleo@example.com", "password": "an otter counts the rivers"}


class Stage(NamedTuple):
    """Ada is an administrator. Bob and Ada are logged in, a stranger is not."""

    ada: TestClient
    bob: TestClient
    make: ClientFactory  # the same service under other settings

    @property
    def stranger(self) -> TestClient:
        return other_browser(self.ada)


def set_up(make: ClientFactory) -> Stage:
    ada = sign_up_admin(make(refresh_grace_seconds=0))
    return Stage(ada, sign_up_other(ada), make)


class Action(NamedTuple):
    """What somebody does, and the one event of it: about whom, and by whom."""

    event: Event
    act: Callable[[Stage], Response]
    status: int
    whose: dict[str, str] | None = BOB
    by: dict[str, str] | None = BOB
    failure: bool = False
    prepare: Callable[[Stage], object] = lambda _: None
    besides: Event | None = None  # of another event of the same request


def sign_up_to_be_verified(on: Stage) -> Response:
    return register(on.make(require_verified_email=True), CLEO)


def present_a_copied_token(on: Stage) -> Response:
    copied = refresh_token(on.bob)
    refresh(on.bob)
    return present(on.ada, copied)


def confirm_another_address(on: Stage) -> Response:
    token = mint(on.ada, Purpose.CONFIRM_EMAIL, BOB["email"], "new@example.com")
    return on.stranger.post(f"{ME}/email/confirm", json={"token": token})


def end_the_only_session(on: Stage) -> Response:
    [session] = on.bob.get(f"{ME}/sessions").json()
    return on.bob.delete(f"{ME}/sessions/{session['id']}")


ACTIONS = {
    # by themselves
    "logs in": Action(Event.LOGIN_STARTED, lambda on: log_in(on.stranger, BOB), 200),
    "gets tokens": Action(
        Event.LOGIN_STARTED,
        lambda on: on.stranger.post(
            "/api/v1/auth/token",
            data={
                "grant_type": "password",
                "username": BOB["email"],
                "password": BOB["password"],
            },
        ),
        200,
    ),
    "gives a wrong password": Action(
        Event.LOGIN_FAILED,
        lambda on: log_in(on.stranger, BOB | {"password": NEW}),
        401,
        by=None,
        failure=True,
    ),
    "gives an unknown address": Action(
        Event.LOGIN_FAILED, lambda on: log_in(on.stranger, CLEO), 401, None, None, failure=True
    ),
    "logs out": Action(Event.LOGIN_ENDED, lambda on: log_out(on.bob), 204),
    "revokes a token": Action(
        Event.LOGIN_ENDED,
        lambda on: on.stranger.post("/api/v1/auth/revoke", data={"token": refresh_token(on.bob)}),
        200,
    ),
    "ends one session": Action(
        Event.LOGIN_ENDED,
        end_the_only_session,
        204,
    ),
    "ends all sessions": Action(
        Event.LOGINS_ENDED, lambda on: on.bob.delete(f"{ME}/sessions?include_current=true"), 204
    ),
    "changes the name": Action(
        Event.USER_UPDATED, lambda on: on.bob.patch(ME, json={"full_name": "Robert"}), 200
    ),
    "changes the password": Action(
        Event.PASSWORD_CHANGED,
        lambda on: on.bob.put(
            f"{ME}/password",
            json={"current_password": BOB["password"], "new_password": NEW},
        ),
        200,
    ),
    "confirms with a wrong password": Action(
        Event.PASSWORD_REFUSED,
        lambda on: on.bob.post(f"{ME}/delete", json={"password": NEW}),
        403,
        failure=True,
    ),
    "asks for another address": Action(
        Event.EMAIL_CHANGE_REQUESTED,
        lambda on: on.bob.put(
            f"{ME}/email", json={"password": BOB["password"], "email": "new@example.com"}
        ),
        202,
    ),
    "exports": Action(Event.DATA_EXPORTED, lambda on: on.bob.get(f"{ME}/export"), 200),
    "leaves": Action(
        Event.USER_DELETED,
        lambda on: on.bob.post(f"{ME}/delete", json={"password": BOB["password"]}),
        204,
    ),
    # by whoever asks, or holds a link
    "forgets the password": Action(
        Event.PASSWORD_RESET_REQUESTED,
        lambda on: forgot(on.stranger, BOB["email"]),
        202,
        None,
        None,
    ),
    "resets the password": Action(
        Event.PASSWORD_RESET,
        lambda on: reset(on.stranger, mint(on.ada, Purpose.RESET_PASSWORD, BOB["email"]), NEW),
        204,
        by=None,
    ),
    "asks for verification": Action(
        Event.VERIFICATION_REQUESTED,
        lambda on: on.stranger.post(
            "/api/v1/auth/verify-email/request", json={"email": BOB["email"]}
        ),
        202,
        None,
        None,
    ),
    "verifies the address": Action(
        Event.EMAIL_VERIFIED,
        lambda on: verify(on.stranger, mint(on.ada, Purpose.VERIFY_EMAIL, BOB["email"])),
        204,
        by=None,
    ),
    # by an administrator
    "is renamed": Action(
        Event.USER_UPDATED, lambda on: change(on.ada, BOB, full_name="Robert"), 200, by=ADA
    ),
    "is disabled": Action(
        Event.USER_DISABLED, lambda on: change(on.ada, BOB, is_active=False), 200, by=ADA
    ),
    "becomes an administrator": Action(
        Event.ADMIN_GRANTED, lambda on: change(on.ada, BOB, is_admin=True), 200, by=ADA
    ),
    "is told to change the password": Action(
        Event.PASSWORD_CHANGE_REQUIRED,
        lambda on: change(on.ada, BOB, must_change_password=True),
        200,
        by=ADA,
    ),
    "is sent a link": Action(
        Event.PASSWORD_RESET_REQUESTED,
        lambda on: on.ada.post(f"{url_of(on.ada, BOB)}/password-reset"),
        202,
        by=ADA,
    ),
    "is logged out": Action(
        Event.LOGINS_ENDED,
        lambda on: on.ada.delete(f"{url_of(on.ada, BOB)}/sessions"),
        204,
        by=ADA,
    ),
    "is deleted": Action(
        Event.USER_DELETED, lambda on: on.ada.delete(url_of(on.ada, BOB)), 204, by=ADA
    ),
    "is enabled": Action(
        Event.USER_ENABLED,
        lambda on: change(on.ada, BOB, is_active=True),
        200,
        by=ADA,
        prepare=lambda on: change(on.ada, BOB, is_active=False),
    ),
    "is an administrator no more": Action(
        Event.ADMIN_REVOKED,
        lambda on: change(on.ada, BOB, is_admin=False),
        200,
        by=ADA,
        prepare=lambda on: change(on.ada, BOB, is_admin=True),
    ),
    "is invited": Action(
        Event.USER_CREATED, lambda on: invite(on.ada, CLEO["email"]), 201, whose=CLEO, by=ADA
    ),
    # the rest
    "signs up": Action(
        Event.USER_CREATED, lambda on: register(on.stranger, CLEO), 201, whose=CLEO, by=None
    ),
    "signs up where addresses are verified": Action(
        Event.USER_CREATED, sign_up_to_be_verified, 202, whose=CLEO, by=None
    ),
    "signs up there again": Action(
        Event.REGISTRATION_REQUESTED,
        sign_up_to_be_verified,
        202,
        whose=CLEO,
        by=None,
        prepare=sign_up_to_be_verified,
    ),
    "confirms another address": Action(Event.EMAIL_CHANGED, confirm_another_address, 204, by=None),
    "copies a token": Action(
        Event.TOKEN_REUSED, present_a_copied_token, 401, by=None, failure=True
    ),
    "guesses too often": Action(
        Event.LIMIT_REACHED,
        lambda on: log_in(on.make(login_attempts_per_account=1), BOB | {"password": NEW}),
        401,
        by=None,
        failure=True,
        besides=Event.LOGIN_FAILED,
    ),
}
