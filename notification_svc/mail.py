"""Mail over SMTP by aiosmtplib: a few connections, kept open, and exact about what a failure means.

A mail counts as perhaps sent from the moment its content may be on the way. Its Message-ID is made of the
idempotency key, so that a mail sent again is the same mail to whoever receives it.
"""

import asyncio
import re
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from email.charset import BASE64, Charset
from email.header import Header
from email.mime.nonmultipart import MIMENonMultipart
from email.policy import Compat32
from email.utils import formatdate
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit
from uuid import UUID

from aiosmtplib import (
    SMTP,
    SMTPConnectError,
    SMTPDataError,
    SMTPException,
    SMTPRecipientRefused,
    SMTPResponseException,
)
from pydantic import SecretStr

from events.outbound.circuit import CircuitBreaker, Request
from events.outbound.dispatcher import CallFailed
from events.outbound.http_party import Accepted, Refused
from notification_svc.decide import SendEmail

CLOSING = 421
PERMANENT = 500
# What a server answers that wants us to log in first, or in another way: that says nothing of the recipient.
WANTS_LOGIN = frozenset({530, 534, 535, 538})
LOOPBACK = ("localhost", "127.0.0.1", "::1")

# Whether a connection that begins unencrypted is encrypted then: if the server offers it, always, or never.
StartTls = Literal["offered", "required", "never"]

_WEAK = re.compile(r"[^A-Za-z0-9_-]+")
_OWN_MESSAGE_ID = re.compile(
    rf"<?{SendEmail.name}\.(?P<order_id>[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}})(?:\.(?P<round>\d{{1,6}}))?@"
)
_STARTTLS: dict[StartTls, bool | None] = {"offered": None, "required": True, "never": False}
# No line of a header is longer, where that can be helped (RFC 5322).
_LINE_CHARACTERS = 78


class _Plainly(Compat32):
    """Writes headers as they are that fit into a line, which is what Compat32 makes of them the long way."""

    def fold_binary(self, name: str, value: str) -> bytes:
        """A header as the bytes of its lines."""
        plain = value.isascii() and value.isprintable() and len(name) + len(value) + 2 <= _LINE_CHARACTERS
        return f"{name}: {value}\r\n".encode("ascii") if plain else super().fold_binary(name, value)


_AS_SENT = _Plainly(linesep="\r\n")


@dataclass(frozen=True, slots=True)
class Mail:
    """A plain text mail to one mailbox."""

    to: str
    subject: str
    text: str

    def __post_init__(self) -> None:
        if not self.to.isprintable() or not self.to.isascii() or set(self.to) & set("<> "):
            raise ValueError("not a mailbox")


@dataclass(frozen=True, slots=True)
class Access:
    """How to speak to a mail server. Where it is encrypted, the certificate is verified."""

    starttls: StartTls = "offered"
    username: str | None = None
    password: SecretStr | None = None
    ca_file: Path | None = None
    """What is trusted, instead of what the system trusts."""


class SmtpMailServer:
    """A mail server at smtp://[user:password@]host[:port], or smtps:// for TLS from the first byte on."""

    def __init__(
        self,
        url: str,
        breaker: CircuitBreaker,
        access: Access = Access(),
        *,
        sender: str,
        connections: int,
        timeout_seconds: float,
        idle_seconds: float,
    ) -> None:
        """`connections` bounds how many are open; one that was idle for longer is not used again."""
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        self._implicit_tls = parts.scheme == "smtps"
        self._starttls = _STARTTLS["never" if self._implicit_tls else access.starttls]
        self._username, self._password = _credentials(parts, access)
        # Always: a server may offer STARTTLS. Read once, for to read certificates takes long.
        self._tls = ssl.create_default_context(cafile=access.ca_file)
        self._breaker = breaker
        self._sender = sender
        self._timeout_seconds = timeout_seconds
        self._idle_seconds = idle_seconds
        self._slots = asyncio.Semaphore(connections)
        self._idle: list[tuple[SMTP, float]] = []

    async def open(self) -> None:
        """Nothing to do: connections are made when they are needed."""

    async def close(self) -> None:
        """Close the connections."""
        while self._idle:
            self._idle.pop()[0].close()

    async def send(self, mail: Mail, *, key: str) -> Accepted | Refused:
        """Hand one mail over; refused for a 5xx. Raises CallFailed when another attempt may help."""
        content = self._written(mail, key)
        async with self._slots:
            # Only now: meanwhile those ahead may have found that the server is down.
            with self._breaker.request() as request:
                return await self._send(request, mail.to, content)

    async def _send(self, request: Request, to: str, content: bytes) -> Accepted | Refused:
        deadline = asyncio.get_running_loop().time() + self._timeout_seconds
        connection = await self._begun(deadline)
        declined = await _handed_over(connection, deadline, to, content)
        if declined is None:
            self._keep(connection)
            request.alive = True
            return Accepted()
        # A 4xx to the recipient alone, such as greylisting, is no sign of a server in trouble.
        of_recipient = isinstance(declined, SMTPRecipientRefused) and declined.code != CLOSING
        request.alive = declined.code >= PERMANENT or of_recipient
        await self._forget(connection, deadline)
        if declined.code in WANTS_LOGIN:
            raise CallFailed(f"mail_server_unavailable_{declined.code}", maybe_done=False)
        if declined.code < PERMANENT:
            raise CallFailed(f"mail_postponed_{declined.code}", maybe_done=False)
        return Refused(f"mail_refused_{declined.code}")

    async def _begun(self, deadline: float) -> SMTP:
        """A connection on which a mail is begun. Raises CallFailed: nothing was sent then."""
        try:
            async with asyncio.timeout_at(deadline):
                return await self._idle_begun() or await self._fresh_begun()
        except SMTPConnectError:
            raise CallFailed("mail_server_unavailable", maybe_done=False) from None
        except SMTPResponseException as error:
            # Without the server's text, which may repeat an address.
            raise CallFailed(f"mail_server_unavailable_{error.code}", maybe_done=False) from None
        except (SMTPException, OSError):  # TimeoutError is one
            raise CallFailed("mail_server_unavailable", maybe_done=False) from None

    async def _idle_begun(self) -> SMTP | None:
        """One that was idle, unless all those have died meanwhile."""
        while self._idle:
            connection, idle_since = self._idle.pop()
            if connection.is_connected and time.monotonic() - idle_since <= self._idle_seconds:
                with suppress(SMTPException, ConnectionError):
                    return await self._begin(connection)
            connection.close()
        return None

    async def _fresh_begun(self) -> SMTP:
        connection = SMTP(
            hostname=self._host,
            port=self._port,
            username=self._username,
            password=self._password,
            use_tls=self._implicit_tls,
            start_tls=self._starttls,
            tls_context=self._tls,
            # The deadline is that of all together.
            timeout=None,
            # Else the library asks the DNS for it, which may block.
            local_hostname=_WEAK.sub("-", socket.gethostname()) or "localhost",
        )
        await connection.connect()
        return await self._begin(connection)

    async def _begin(self, connection: SMTP) -> SMTP:
        try:
            await connection.mail(self._sender)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _forget(self, connection: SMTP, deadline: float) -> None:
        """Get ready for another mail after one that was declined, which stays so even if this fails."""
        forgotten = False
        try:
            left_seconds = deadline - asyncio.get_running_loop().time()
            with suppress(SMTPException, OSError):
                await connection.rset(timeout=max(left_seconds, 0))
                forgotten = True
        finally:
            if forgotten:
                self._keep(connection)
            else:
                connection.close()

    def _keep(self, connection: SMTP) -> None:
        self._idle.append((connection, time.monotonic()))

    def _written(self, mail: Mail, key: str) -> bytes:
        """The mail as lines. In base64 none is too long, whatever the text is."""
        message = MIMENonMultipart("text", "plain")
        message.set_payload(mail.text, _in_base64())
        message["Message-ID"] = message_id(key, self._sender)
        message["Date"] = formatdate()
        message["From"] = self._sender
        message["To"] = mail.to
        message["Subject"] = _header(" ".join(mail.subject.splitlines()))
        return message.as_bytes(policy=_AS_SENT)


async def _handed_over(
    connection: SMTP, deadline: float, to: str, content: bytes
) -> SMTPRecipientRefused | SMTPDataError | None:
    """How the server declined the mail, or None when it took it. Raises CallFailed when it does not say."""
    on_its_way = done = False
    try:
        async with asyncio.timeout_at(deadline):
            await connection.rcpt(to)
            # The library does not tell whether the server asked for the content before it fell silent.
            on_its_way = True
            await connection.data(content)
        done = True
    except (SMTPRecipientRefused, SMTPDataError) as declined:
        done = True
        return declined
    except (SMTPException, OSError):  # TimeoutError is one
        raise CallFailed("mail_answer_lost", maybe_done=on_its_way) from None
    finally:
        if not done:
            # Also after a cancellation: nobody knows what the server would answer next.
            connection.close()
    return None


def _in_base64() -> Charset:
    """UTF-8, whatever another library makes of it for the whole process, as apprise does."""
    charset = Charset("utf-8")
    charset.header_encoding = charset.body_encoding = BASE64
    return charset


def _header(text: str) -> str:
    """As it is where that means the same to whoever reads it, or else as RFC 2047 has it."""
    plain = text.isascii() and text.isprintable() and "=?" not in text
    return text if plain else Header(text, _in_base64()).encode()


def _credentials(parts: SplitResult, access: Access) -> tuple[str | None, str]:
    if access.username is not None:
        return access.username, access.password.get_secret_value() if access.password is not None else ""
    return None if parts.username is None else unquote(parts.username), unquote(parts.password or "")


def goes_unencrypted(url: str, access: Access) -> bool:
    """Whether a password may go over a network as it is."""
    parts = urlsplit(url)
    has_password = access.username is not None or parts.username is not None
    encrypted = parts.scheme == "smtps" or access.starttls == "required"
    return has_password and not encrypted and parts.hostname not in LOOPBACK


def sent_as(message_id: str) -> tuple[UUID, int] | None:
    """The order and the round of the mail that has this Message-ID; None of a mail that is not from here."""
    found = _OWN_MESSAGE_ID.match(message_id)
    return (UUID(found["order_id"]), int(found["round"] or 1)) if found else None


def message_id(key: str, sender: str) -> str:
    """The Message-ID that every attempt under this idempotency key has."""
    return f"<{_WEAK.sub('.', key)}@{sender.rpartition('@')[2]}>"
