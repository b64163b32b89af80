"""What the service promises, without the service: accounts, logins, links, and who holds what.

Each act is a method. It changes the model as the service must change, notes what the audit trail
must say, and raises Refused where the service must say no. There is no HTTP here and no database,
no password is hashed and nothing is signed. Only the evidence rule is borrowed: it is proved in
tests/rotation, and what is asked here is whether the service goes by it.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from app.core.moments import from_microseconds, to_microseconds
from app.core.rotation import Lineage, Verdict, judge

ACCESS_LIFETIME = timedelta(minutes=15)
IDLE_LIFETIME = timedelta(days=7)
ABSOLUTE_LIFETIME = timedelta(days=30)
GRACE = 60_000_000  # microseconds
CLOCK_SKEW = 60  # seconds
SESSIONS_PER_USER = 3
GIVE_UP = timedelta(days=3)
ABANDONED = timedelta(days=4)

LINK_LIFETIMES = {
    "verify_email": timedelta(hours=24),
    "reset_password": timedelta(hours=1),
    "confirm_email": timedelta(hours=1),
    "invitation": timedelta(hours=24),
}
PURPOSES = {name: name for name in LINK_LIFETIMES} | {"invitation": "reset_password"}


def now() -> datetime:
    return datetime.now(UTC)


class Refused(Exception):
    """The service must say no, with this code."""

    @property
    def code(self) -> str:
        return str(self.args[0])


@dataclass(eq=False)
class Account:
    """password: None for whoever was invited and has not come yet. id: as the service says."""

    email: str
    password: str | None
    full_name: str | None = None
    is_active: bool = True
    is_admin: bool = False
    email_verified: bool = False
    must_change_password: bool = False
    password_changed_at: datetime = field(default_factory=now)
    last_login_at: datetime | None = None
    id: UUID | None = None


@dataclass(eq=False)
class Login:
    account: Account
    client_id: str
    lineage: Lineage = field(default_factory=lambda: Lineage(to_microseconds(now())))
    expires_at: datetime = field(default_factory=lambda: now() + ABSOLUTE_LIFETIME)
    id: UUID | None = None

    @property
    def has_expired(self) -> bool:
        return now() >= min(self.expires_at, from_microseconds(self.lineage.last) + IDLE_LIFETIME)


@dataclass(eq=False)
class Access:
    """text: the token itself, as the service made it."""

    login: Login
    issued_at: int
    text: str = ""

    @property
    def expires_at(self) -> int:
        lifetime = int(ACCESS_LIFETIME.total_seconds())
        return min(self.issued_at + lifetime, int(self.login.expires_at.timestamp()))

    @property
    def is_believed(self) -> bool:
        return self.is_from_the_past and now().timestamp() < self.expires_at

    @property
    def is_from_the_past(self) -> bool:
        return self.issued_at <= now().timestamp() + CLOCK_SKEW


@dataclass(eq=False)
class Refresh:
    login: Login
    n: int
    text: str = ""


@dataclass(eq=False)
class Device:
    account: Account
    n: int
    text: str = ""


@dataclass(eq=False)
class Jar:
    """What a browser holds, or a program. Who copies it holds the very same."""

    client_id: str
    access: Access | None = None
    refresh: Refresh | None = None
    device: Device | None = None

    def copy(self, other: "Jar") -> None:
        self.access, self.refresh, self.device = other.access, other.refresh, other.device

    @property
    def tokens(self) -> Iterator[Access | Refresh | Device]:
        return filter(None, (self.access, self.refresh, self.device))


@dataclass(eq=False)
class Link:
    """text: its token. Empty where it was sent to nobody."""

    account: Account
    purpose: str
    email: str
    expires_at: datetime
    text: str = ""


@dataclass(eq=False)
class Mail:
    """One that waits."""

    template: str
    recipient: str
    account: Account | None
    new: bool
    created_at: datetime = field(default_factory=now)


class Sent(NamedTuple):
    recipient: str
    link: Link | None


class Noted(NamedTuple):
    """What the audit trail must say, and about whom."""

    event: str
    account: Account | None
    actor: Account | None
    login: Login | None


@dataclass
class Model:
    """verified: whether REQUIRE_VERIFIED_EMAIL is true."""

    verified: bool
    accounts: list[Account] = field(default_factory=list)
    logins: list[Login] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    mails: list[Mail] = field(default_factory=list)
    noted: list[Noted] = field(default_factory=list)

    # Signing up, in and out.

    def register(self, email: str, password: str) -> Account | None:
        """None where the answer must not tell."""
        found = self.find(email)
        if not self.verified:
            if found:
                raise Refused("email_taken")
            return self.open_account(Account(email, password), welcome="verify_email")
        never_used = found and not (found.email_verified or found.last_login_at or found.is_admin)
        if found is None:
            found = Account(email, password)
            self.accounts.append(found)
            self.note("user_created", found)
        elif never_used and found.password:
            found.password, found.full_name, found.password_changed_at = password, None, now()
            self.links = [link for link in self.links if link.account is not found]
            self.note("registration_requested", found)
        else:
            self.note("registration_requested")
        self.mails = [
            mail
            for mail in self.mails
            if (mail.template, mail.recipient) != ("verify_email", email)
        ]
        self.post("verify_email", email, new=True)
        return None

    def open_account(self, account: Account, welcome: str, by: Account | None = None) -> Account:
        if self.find(account.email):
            raise Refused("email_taken")
        self.accounts.append(account)
        self.note("user_created", account, by)
        self.post(welcome, account.email, account)
        return account

    def log_in(self, jar: Jar, email: str, password: str) -> None:
        account = self.authenticate(email, password)
        device = jar.device
        known = (
            device is not None
            and device.account is account
            and from_microseconds(device.n) >= account.password_changed_at
        )
        if account.last_login_at and not known:
            self.post("new_device", account.email, account)
        brought_along = [token.login for token in self.presented(jar)]
        jar.device = Device(account, to_microseconds(now()))
        self.start(jar, account, brought_along)

    def get_tokens(self, jar: Jar, email: str, password: str) -> None:
        """As a program does."""
        account = self.authenticate(email, password)
        if account.last_login_at and not self.logins_of(account):
            self.post("new_device", account.email, account)
        self.start(jar, account, ())

    def authenticate(self, email: str, password: str) -> Account:
        found = self.find(email)
        may_log_in = found and found.is_active and (found.email_verified or not self.verified)
        if found is None or found.password != password or not may_log_in:
            self.note("login_failed", found)
            raise Refused("invalid_credentials")
        return found

    def start(self, jar: Jar, account: Account, replaced: Collection[Login]) -> None:
        others = [login for login in self.logins_of(account) if login not in replaced]
        others.sort(key=lambda login: login.lineage.last, reverse=True)
        for login in {*replaced, *others[SESSIONS_PER_USER - 1 :]}:
            self.end(login)
        account.last_login_at = now()
        login = self.new_login(jar, account)
        self.note("login_started", account, account, login)

    def new_login(self, jar: Jar, account: Account) -> Login:
        login = Login(account, jar.client_id)
        self.logins.append(login)
        self.give(jar, login)
        return login

    def give(self, jar: Jar, login: Login) -> None:
        jar.access = Access(login, int(now().timestamp()))
        jar.refresh = Refresh(login, login.lineage.last)

    def refresh(self, jar: Jar) -> None:
        token = jar.refresh
        if token is None:
            raise Refused("not_authenticated")
        login = token.login
        if login not in self.logins:
            raise Refused("session_revoked")
        verdict, lineage = judge(login.lineage, token.n, clock=to_microseconds(now()), grace=GRACE)
        if verdict is Verdict.THEFT:
            self.logins.remove(login)
            self.note("token_reused", login.account, None, login)
            self.post("token_reused", login.account.email, login.account)
            raise Refused("token_reused")
        if login.has_expired:
            raise Refused("session_expired")
        login.lineage = lineage
        self.give(jar, login)

    def log_out(self, jar: Jar) -> None:
        for token in self.presented(jar):
            self.end(token.login)
        jar.access = jar.refresh = None

    def presented(self, jar: Jar) -> list[Access | Refresh]:
        """Expired or not."""
        access = [jar.access] if jar.access and jar.access.is_from_the_past else []
        return [*access, *([jar.refresh] if jar.refresh else [])]

    def end(self, login: Login) -> None:
        if login in self.logins:
            self.logins.remove(login)
            self.note("login_ended", login.account, login.account, login)

    # Who is asking?

    def identify(self, jar: Jar) -> Login:
        if jar.access is None or not jar.access.is_believed:
            raise Refused("not_authenticated")
        login = jar.access.login
        if login not in self.logins:
            raise Refused("session_revoked")
        if login.has_expired:
            raise Refused("session_expired")
        return login

    def current(self, jar: Jar) -> Login:
        login = self.identify(jar)
        if login.account.must_change_password:
            raise Refused("password_change_required")
        return login

    def admin(self, jar: Jar) -> Account:
        account = self.current(jar).account
        if not account.is_admin:
            raise Refused("forbidden")
        return account

    # One's own account.

    def end_session(self, jar: Jar, login: Login) -> None:
        current = self.current(jar)
        if login not in self.logins_of(current.account):
            raise Refused("not_found")
        self.end(login)
        if login is current:
            self.forget(jar)

    def end_sessions(self, jar: Jar, include_current: bool) -> None:
        current = self.current(jar)
        self.end_all(current.account, current.account, None if include_current else current)
        if include_current:
            self.forget(jar)

    def forget(self, jar: Jar) -> None:
        """A browser is told to. A program knows what it has done."""
        if jar.client_id == "browser":
            jar.access = jar.refresh = None

    def rename(self, jar: Jar, full_name: str | None) -> None:
        account = self.current(jar).account
        self.change(account, account, full_name=full_name)

    def change_password(self, jar: Jar, password: str, new_password: str) -> None:
        account = self.identify(jar).account
        self.confirm_password(account, password)
        if new_password == password:
            raise Refused("password_unchanged")
        self.set_password(account, new_password)
        if jar.client_id == "browser":
            jar.device = Device(account, to_microseconds(now()))
        login = self.new_login(jar, account)
        self.note("password_changed", account, account, login)

    def change_email(self, jar: Jar, password: str, email: str) -> None:
        account = self.current(jar).account
        self.confirm_password(account, password)
        self.post("confirm_email", email, account)
        self.note("email_change_requested", account, account)

    def export(self, jar: Jar) -> Login:
        login = self.current(jar)
        self.note("data_exported", login.account, login.account, login)
        return login

    def delete_me(self, jar: Jar, password: str) -> None:
        account = self.current(jar).account
        self.confirm_password(account, password)
        self.keep_an_admin(account)
        self.remove(account, account)
        if jar.client_id == "browser":
            jar.access = jar.refresh = jar.device = None

    def confirm_password(self, account: Account, password: str) -> None:
        if account.password != password:
            self.note("password_refused", account, account)
            raise Refused("wrong_password")

    # By a mailed link.

    def ask_for_reset(self, email: str) -> None:
        self.post("reset_password", email)
        self.note("password_reset_requested")

    def ask_for_verification(self, email: str) -> None:
        self.post("verify_email", email)
        self.note("verification_requested")

    def verify_email(self, link: Link) -> None:
        self.use(link, "verify_email")
        link.account.email_verified = True
        self.note("email_verified", link.account)

    def reset_password(self, link: Link, password: str) -> None:
        account = self.look_up(link, "reset_password").account
        if account.must_change_password and account.password == password:
            raise Refused("password_unchanged")
        self.set_password(account, password)
        account.email_verified = True
        self.note("password_reset", account)

    def confirm_email(self, link: Link) -> None:
        account = self.look_up(link, "confirm_email").account
        if self.find(link.email):
            raise Refused("invalid_one_time_token")
        former = account.email
        account.email, account.email_verified = link.email, True
        self.void_links(account, former)
        self.post("email_changed", former, account)
        self.note("email_changed", account)

    def use(self, link: Link, purpose: str) -> None:
        self.links.remove(self.look_up(link, purpose))

    def look_up(self, link: Link, purpose: str) -> Link:
        if link not in self.links or link.purpose != purpose or now() >= link.expires_at:
            raise Refused("invalid_one_time_token")
        return link

    # Administrators.

    def invite(self, jar: Jar, email: str, is_admin: bool) -> Account:
        admin = self.admin(jar)
        return self.open_account(Account(email, None, is_admin=is_admin), "invitation", admin)

    def change_user(self, jar: Jar, email: str, **changes: bool) -> Account:
        admin = self.admin(jar)
        account = self.known(email)
        if False in (changes.get("is_active"), changes.get("is_admin")):
            self.keep_an_admin(account)
        self.change(account, admin, **changes)
        return account

    def send_reset(self, jar: Jar, email: str) -> None:
        admin = self.admin(jar)
        account = self.known(email)
        self.post("reset_password" if account.password else "invitation", email, account)
        self.note("password_reset_requested", account, admin)

    def end_user_sessions(self, jar: Jar, email: str) -> None:
        admin = self.admin(jar)
        self.end_all(self.known(email), admin, None)

    def delete_user(self, jar: Jar, email: str) -> None:
        admin = self.admin(jar)
        if email == admin.email:
            raise Refused("own_account")
        account = self.known(email)
        self.keep_an_admin(account)
        self.remove(account, admin)

    def known(self, email: str) -> Account:
        account = self.find(email)
        if account is None:
            raise Refused("not_found")
        return account

    def keep_an_admin(self, account: Account) -> None:
        admins = [
            one
            for one in self.accounts
            if one.is_admin and one.is_active and one.password
            if one.email_verified or not self.verified
        ]
        if admins == [account]:
            raise Refused("last_admin")

    # What time does.

    def deliver(self) -> list[Sent]:
        """Everything that is due, the oldest first."""
        due = sorted(
            (mail for mail in self.mails if mail.created_at <= now()),
            key=lambda mail: mail.created_at,
        )
        self.mails = [mail for mail in self.mails if mail not in due]
        young = [mail for mail in due if mail.created_at > now() - GIVE_UP]
        return [sent for mail in young if (sent := self.send(mail))]

    def send(self, mail: Mail) -> Sent | None:
        template = mail.template
        if template not in PURPOSES:
            return Sent(mail.recipient, None)
        account = self.addressee(mail)
        if account is None or not account.is_active:
            return None
        if template == "confirm_email":
            self.links = [
                link
                for link in self.links
                if (link.account, link.purpose) != (account, "confirm_email")
            ]
            link = self.mint(account, template, mail.recipient)
            return Sent(mail.recipient, None if self.find(mail.recipient) else link)
        if template == "invitation" and account.password:
            return None
        if template == "verify_email" and account.email_verified:
            return Sent(mail.recipient, None) if mail.new else None
        if template == "verify_email" and not account.password:
            template = "invitation"
        return Sent(mail.recipient, self.mint(account, template, mail.recipient))

    def addressee(self, mail: Mail) -> Account | None:
        if mail.template == "confirm_email":
            return mail.account if mail.account in self.accounts else None
        found = self.find(mail.recipient)
        return found if mail.account in (None, found) else None

    def mint(self, account: Account, template: str, email: str) -> Link:
        link = Link(account, PURPOSES[template], email, now() + LINK_LIFETIMES[template])
        self.links.append(link)
        self.note("link_sent", account)
        return link

    def purge(self) -> None:
        self.logins = [login for login in self.logins if not login.has_expired]
        self.links = [link for link in self.links if now() < link.expires_at]
        self.mails = [mail for mail in self.mails if mail.created_at > now() - ABANDONED]

    # What several acts have in common.

    def find(self, email: str) -> Account | None:
        return next((one for one in self.accounts if one.email == email), None)

    def logins_of(self, account: Account) -> list[Login]:
        return [login for login in self.logins if login.account is account]

    def change(self, account: Account, by: Account, **changes: object) -> None:
        """One event for what has a name of its own; one for the rest."""
        changed = {name: to for name, to in changes.items() if getattr(account, name) != to}
        for change in changed.items():
            setattr(account, *change)
            if change == ("is_active", False):
                self.logins = [login for login in self.logins if login.account is not account]
                self.void_links(account, account.email)
            self.note(EVENTS.get(change, "user_updated"), account, by)

    def end_all(self, account: Account, by: Account, spared: Login | None) -> None:
        ended = [login for login in self.logins_of(account) if login is not spared]
        self.logins = [login for login in self.logins if login not in ended]
        if ended:
            self.note("logins_ended", account, by)

    def set_password(self, account: Account, password: str) -> None:
        account.password = password
        account.password_changed_at = now()
        account.must_change_password = False
        self.logins = [login for login in self.logins if login.account is not account]
        self.void_links(account, account.email)
        self.post("password_changed", account.email, account)

    def void_links(self, account: Account, email: str) -> None:
        """Those that were sent, and those that wait."""
        self.links = [link for link in self.links if link.account is not account]
        self.mails = [
            mail
            for mail in self.mails
            if mail.template not in PURPOSES
            or not (mail.recipient == email or mail.account is account)
        ]

    def remove(self, account: Account, by: Account) -> None:
        self.note("user_deleted", account, by)
        self.accounts.remove(account)
        self.logins = [login for login in self.logins if login.account is not account]
        self.links = [link for link in self.links if link.account is not account]
        self.post("account_deleted", account.email)

    def post(
        self, template: str, recipient: str, account: Account | None = None, *, new: bool = False
    ) -> None:
        self.mails.append(Mail(template, recipient, account, new))

    def note(
        self,
        event: str,
        account: Account | None = None,
        actor: Account | None = None,
        login: Login | None = None,
    ) -> None:
        self.noted.append(Noted(event, account, actor, login))


EVENTS = {
    ("is_active", False): "user_disabled",
    ("is_active", True): "user_enabled",
    ("is_admin", True): "admin_granted",
    ("is_admin", False): "admin_revoked",
    ("must_change_password", True): "password_change_required",
}
