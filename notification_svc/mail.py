"""Mail over SMTP: a few connections, kept open, and exact about what a failure means.

A mail counts as perhaps sent from the moment its content is on the way. Its Message-ID is made of the
idempotency key, so that a mail sent again is the same mail to whoever receives it.
"""

import asyncio
import re
import socket
from dataclasses import dataclass
from email.mime.text import MIMEText
from email.utils import formatdate
from urllib.parse import unquote, urlsplit

from aiosmtplib import (
    SMTP,
    SMTPConnectError,
    SMTPException,
    SMTPResponseException,
    SMTPServerDisconnected,
)

from events.runtime.calls import CallFailed
from events.runtime.circuit import CircuitBreaker, Request
from events.runtime.outbound import Accepted, Refused

CLOSING = 421
PERMANENT = 500

_WEAK = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Mail:
    """A plain text mail to one mailbox."""

    to: str
    subject: str
    text: str


class SmtpMailServer:
    """A mail server at smtp://[user:password@]host[:port], or smtps:// for TLS from the first byte on."""

    def __init__(
        self, url: str, breaker: CircuitBreaker, *, sender: str, connections: int, timeout_seconds: float
    ) -> None:
        """`connections` bounds how many are open."""
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        self._tls = parts.scheme == "smtps"
        self._username = None if parts.username is None else unquote(parts.username)
        self._password = None if parts.password is None else unquote(parts.password)
        self._breaker = breaker
        self._sender = sender
        self._timeout_seconds = timeout_seconds
        self._slots = asyncio.Semaphore(connections)
        self._idle: list[SMTP] = []

    async def open(self) -> None:
        """Nothing to do: connections are made when they are needed."""

    async def close(self) -> None:
        """Close the connections."""
        while self._idle:
            self._idle.pop().close()

    async def send(self, mail: Mail, *, key: str) -> Accepted | Refused:
        """Hand one mail over; refused for a 5xx. Raises CallFailed when another attempt may help."""
        content = self._written(mail, key)
        async with self._slots:
            # Only now: meanwhile those ahead may have found that the server is down.
            with self._breaker.request() as request:
                return await self._send(request, mail.to, content)

    async def _send(self, request: Request, to: str, content: bytes) -> Accepted | Refused:
        connection = await self._begin()
        healthy = False
        try:
            answer = await self._deliver(request, connection, to, content)
            healthy = True
            return answer
        finally:
            # Also after a cancellation: nobody knows what the server would answer next.
            if healthy and connection.is_connected:
                self._idle.append(connection)
            else:
                connection.close()

    async def _begin(self) -> SMTP:
        """A connection on which MAIL FROM went through. One that was idle may have died: then a fresh one."""
        while self._idle:
            connection = self._idle.pop()
            try:
                await connection.mail(self._sender)
            except (SMTPException, OSError):
                connection.close()
            except BaseException:
                connection.close()
                raise
            else:
                return connection
        connection = self._new_connection()
        try:
            await connection.connect()
            await connection.mail(self._sender)
        except BaseException as error:
            connection.close()
            if isinstance(error, (SMTPException, OSError)):
                raise CallFailed(_reason("mail_server_unavailable", error), maybe_done=False) from None
            raise
        return connection

    async def _deliver(
        self, request: Request, connection: SMTP, to: str, content: bytes
    ) -> Accepted | Refused:
        on_its_way = False
        try:
            await connection.rcpt(to)
            on_its_way = True
            await connection.data(content)
        except SMTPResponseException as error:
            # A 4xx to the recipient alone, such as greylisting, is no sign of a server in trouble.
            request.alive = error.code >= PERMANENT or (not on_its_way and error.code != CLOSING)
            if error.code < PERMANENT or error.code == CLOSING:
                raise CallFailed(_reason("mail_postponed", error), maybe_done=False) from None
            await self._forget(connection)
            return Refused(f"mail_refused_{error.code}")
        except (SMTPException, OSError) as error:
            raise CallFailed(_reason("mail_answer_lost", error), maybe_done=on_its_way) from None
        request.alive = True
        return Accepted()

    async def _forget(self, connection: SMTP) -> None:
        """Make the connection ready for the next mail; the refusal stands even if that fails."""
        try:
            await connection.rset()
        except (SMTPException, OSError):
            connection.close()

    def _new_connection(self) -> SMTP:
        return SMTP(
            hostname=self._host,
            port=self._port,
            username=self._username,
            password=self._password,
            use_tls=self._tls,
            timeout=self._timeout_seconds,
            # Else the library asks the DNS for it, which may block.
            local_hostname=_WEAK.sub("-", socket.gethostname()) or "localhost",
        )

    def _written(self, mail: Mail, key: str) -> bytes:
        # MIMEText and not EmailMessage: the same bytes for a quarter of the time.
        message = MIMEText(mail.text, "plain", "utf-8")
        message["Message-ID"] = message_id(key, self._sender)
        message["Date"] = formatdate()
        message["From"] = self._sender
        message["To"] = mail.to
        message["Subject"] = mail.subject
        return message.as_bytes(policy=message.policy.clone(linesep="\r\n"))


def message_id(key: str, sender: str) -> str:
    """The Message-ID that every attempt under this idempotency key has."""
    return f"<{_WEAK.sub('.', key)}@{sender.rpartition('@')[2]}>"


def _reason(what: str, error: BaseException) -> str:
    """Without the server's text, which may repeat the address."""
    if isinstance(error, SMTPConnectError | SMTPServerDisconnected):
        return what
    return f"{what}_{error.code}" if isinstance(error, SMTPResponseException) else what
