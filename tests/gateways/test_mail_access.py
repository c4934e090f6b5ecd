"""Passwords and encryption on the way to a mail server, which is aiosmtpd's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from pydantic import SecretStr, ValidationError

from events.outbound.circuit import CircuitBreaker
from events.outbound.dispatcher import CallFailed
from events.outbound.http_party import Accepted
from events.runtime.settings import ServiceSettings
from notification_svc.gateway import NotificationSettings
from notification_svc.mail import Access, Mail, SmtpMailServer
from tests.gateways.world import make_certificate, settings_for
from tests.tools import OPENSSL, needs

MAIL = Mail("ada@shop.example", "Hello", "there")
PASSWORD = SecretStr("secret")
AWAY = ("mail_server_unavailable", False)


class Mailbox:
    """Takes every mail, and notes who brought it and whether that was encrypted."""

    def __init__(self) -> None:
        self.mails: list[tuple[bytes | None, bool]] = []
        self.sessions: set[Session] = set()

    async def handle_DATA(self, _: SMTP, session: Session, __: Envelope) -> str:  # noqa: N802
        given: Any = session.auth_data
        name = given.login if session.authenticated else None
        self.mails.append((name, session.ssl is not None))
        self.sessions.add(session)
        return "250 OK"

    def admit(self, _: SMTP, __: Session, ___: Envelope, mechanism: str, given: Any) -> AuthResult:
        known = (given.login, given.password) == (b"shop", PASSWORD.get_secret_value().encode())
        return AuthResult(success=known, handled=False, auth_data=given)


@asynccontextmanager
async def listening(port: int, *, implicit: Any = None, **changes: Any) -> AsyncIterator[Mailbox]:
    """A mail server; `implicit` is its TLS from the first byte on."""
    mailbox = Mailbox()

    def session() -> SMTP:
        return SMTP(mailbox, hostname="localhost", authenticator=mailbox.admit, **changes)

    listener = await asyncio.get_running_loop().create_server(session, "127.0.0.1", port, ssl=implicit)
    try:
        yield mailbox
    finally:
        listener.close()


async def sent(url: str, *accesses: Access, idle_seconds: float = 5, mails: int = 1) -> list[object]:
    """What comes of mails sent in each of these ways."""
    came: list[object] = []
    for access in accesses:
        breaker = CircuitBreaker("mail_server", settings_for(ServiceSettings, None))
        server = SmtpMailServer(
            url,
            breaker,
            access,
            sender="shop@shop.example",
            connections=1,
            timeout_seconds=2,
            idle_seconds=idle_seconds,
        )
        for _ in range(mails):
            try:
                came.append(await server.send(MAIL, key="one"))
            except CallFailed as failure:
                came.append((failure.reason, failure.maybe_done))
        await server.close()
    return came


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
async def test_who_has_a_password_logs_in_once_a_connection(unused_tcp_port: int) -> None:
    async with listening(unused_tcp_port, auth_require_tls=False, auth_required=True) as mailbox:
        url = f"smtp://127.0.0.1:{unused_tcp_port}"
        known, guessed = [Access(username="shop", password=SecretStr(word)) for word in ("secret", "guess")]
        assert await sent(url, known, mails=2) == [Accepted()] * 2
        assert await sent(url.replace("//", "//shop:secret@"), Access()) == [Accepted()]
        refused = [("mail_server_unavailable_535", False), ("mail_server_unavailable_530", False)]
        assert await sent(url, guessed, Access()) == refused
        assert mailbox.mails == [(b"shop", False)] * 3
        assert len(mailbox.sessions) == 2


async def test_a_connection_idle_for_long_is_not_used(unused_tcp_port: int) -> None:
    async with listening(unused_tcp_port) as mailbox:
        assert await sent(f"smtp://127.0.0.1:{unused_tcp_port}", Access(), idle_seconds=-1, mails=2) == (
            [Accepted()] * 2
        )
        assert len(mailbox.sessions) == 2


@needs(OPENSSL)
async def test_starttls(unused_tcp_port: int, tmp_path: Path) -> None:
    certificate, tls = await make_certificate(tmp_path)
    async with listening(unused_tcp_port, tls_context=tls) as mailbox:
        url = f"smtp://localhost:{unused_tcp_port}"
        trusting = [Access(way, "shop", PASSWORD, certificate) for way in ("offered", "required")]
        assert await sent(url, *trusting) == [Accepted()] * 2
        assert await sent(url, Access("never")) == [Accepted()]
        # Nobody vouches for it, or it is somebody else's.
        assert await sent(url, Access("offered"), Access("required")) == [AWAY] * 2
        assert await sent(url.replace("localhost", "127.0.0.1"), *trusting) == [AWAY] * 2
        assert mailbox.mails == [(b"shop", True)] * 2 + [(None, False)]


async def test_no_starttls_where_it_is_required_is_no_mail(unused_tcp_port: int) -> None:
    async with listening(unused_tcp_port) as mailbox:
        ways = [Access("required"), Access("offered")]
        assert await sent(f"smtp://localhost:{unused_tcp_port}", *ways) == [AWAY, Accepted()]
        assert mailbox.mails == [(None, False)]


@needs(OPENSSL)
async def test_tls_from_the_first_byte_on(
    unused_tcp_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, tls = await make_certificate(tmp_path)
    async with listening(unused_tcp_port, implicit=tls, auth_require_tls=False) as mailbox:
        url = f"smtps://localhost:{unused_tcp_port}"
        known = Access("required", "shop", PASSWORD, certificate)
        assert await sent(url, known, mails=2) == [Accepted()] * 2
        assert await sent(url, Access()) == [AWAY]
        assert await sent(url.replace("localhost", "127.0.0.1"), known) == [AWAY]
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert await sent(url, Access()) == [Accepted()]
        assert [name for name, _ in mailbox.mails] == [b"shop", b"shop", None]


@pytest.mark.parametrize(
    ("url", "more", "fine"),
    [
        ("smtp://shop:secret@mail.example", {}, False),
        ("smtp://mail.example", {"smtp_username": "shop", "smtp_password": "secret"}, False),
        ("smtp://shop:secret@mail.example", {"smtp_starttls": "offered"}, False),
        ("smtp://shop:secret@mail.example", {"smtp_starttls": "required"}, True),
        ("smtps://shop:secret@mail.example", {"smtp_starttls": "never"}, True),
        ("smtp://shop:secret@localhost:1025", {}, True),
        ("smtp://mail.example", {}, True),
    ],
)
def test_a_password_is_not_sent_for_all_to_read(url: str, more: dict[str, str], fine: bool) -> None:
    given: dict[str, Any] = {"directory_url": "http://directory", "push_url": "http://push", **more}
    if fine:
        settings_for(NotificationSettings, None, smtp_url=url, **given)
        return
    with pytest.raises(ValidationError, match="SMTP_STARTTLS=required") as refused:
        settings_for(NotificationSettings, None, smtp_url=url, **given)
    [problem] = refused.value.errors()
    assert problem["loc"] == ("smtp_url",)


def test_what_is_trusted_is_a_file() -> None:
    urls = {"directory_url": "http://directory", "push_url": "http://push", "smtp_url": "smtp://mail"}
    with pytest.raises(ValidationError, match="smtp_ca_file"):
        settings_for(NotificationSettings, None, smtp_ca_file="/no/such/file", **urls)
