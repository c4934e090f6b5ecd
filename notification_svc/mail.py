"""Mail over SMTP: a few connections, kept open, and exact about what a failure means.

A mail counts as perhaps sent from the moment its content is on the way. Its Message-ID is made of the
idempotency key, so that a mail sent again is the same mail to whoever receives it.
"""

import asyncio
import re
import socket
from base64 import encodebytes as b64_lines
from contextlib import suppress
from dataclasses import dataclass
from email.header import Header
from email.utils import formatdate
from urllib.parse import unquote, urlsplit

from aiosmtplib import SMTP

from events.outbound.circuit import CircuitBreaker, Request
from events.outbound.dispatcher import CallFailed
from events.outbound.http_party import Accepted, Refused
from notification_svc.dialogue import Declined, Dialogue, ReplyLost, Unavailable

CLOSING = 421
PERMANENT = 500
# With its name it fits into a line.
PLAIN_HEADER_CHARACTERS = 60

_WEAK = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Mail:
    """A plain text mail to one mailbox."""

    to: str
    subject: str
    text: str

    def __post_init__(self) -> None:
        if not self.to.isprintable() or not self.to.isascii() or set(self.to) & set("<> "):
            raise ValueError("not a mailbox")


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
        self._idle: list[Dialogue] = []

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
        try:
            declined = await self._deliver(to, content)
        except Unavailable as error:
            raise CallFailed(_reason("mail_server_unavailable", error.code), maybe_done=False) from None
        except ReplyLost as error:
            raise CallFailed("mail_answer_lost", maybe_done=error.on_its_way) from None
        if declined is None:
            request.alive = True
            return Accepted()
        # A 4xx to the recipient alone, such as greylisting, is no sign of a server in trouble.
        request.alive = declined.code >= PERMANENT or (declined.recipient and declined.code != CLOSING)
        if declined.code < PERMANENT:
            raise CallFailed(_reason("mail_postponed", declined.code), maybe_done=False)
        return Refused(f"mail_refused_{declined.code}")

    async def _deliver(self, to: str, content: bytes) -> Declined | None:
        """Over a connection that was idle; that may have died, and then over a fresh one."""
        while self._idle:
            with suppress(Unavailable):
                return await self._deliver_over(self._idle.pop(), to, content)
        fresh = await Dialogue.begin(self._new_connection(), self._timeout_seconds)
        return await self._deliver_over(fresh, to, content)

    async def _deliver_over(self, dialogue: Dialogue, to: str, content: bytes) -> Declined | None:
        try:
            return await dialogue.deliver(self._sender, to, content)
        finally:
            if dialogue.is_open:
                self._idle.append(dialogue)

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
        """The mail as lines. In base64 none is too long or begins with a dot, whatever the text is."""
        # By hand: the library's classes take a tenth of a millisecond to come to the same.
        head = (
            f"Message-ID: {message_id(key, self._sender)}\r\nDate: {formatdate()}\r\n"
            f"From: {self._sender}\r\nTo: {mail.to}\r\nSubject: {_header(mail.subject)}\r\n"
            'MIME-Version: 1.0\r\nContent-Type: text/plain; charset="utf-8"\r\n'
            "Content-Transfer-Encoding: base64\r\n\r\n"
        )
        text = mail.text.replace("\n", "\r\n").encode()
        return head.encode("ascii") + b64_lines(text).replace(b"\n", b"\r\n")


def message_id(key: str, sender: str) -> str:
    """The Message-ID that every attempt under this idempotency key has."""
    return f"<{_WEAK.sub('.', key)}@{sender.rpartition('@')[2]}>"


def _header(text: str) -> str:
    """As it is where that will do, or else as RFC 2047 has it."""
    if text.isascii() and text.isprintable() and len(text) <= PLAIN_HEADER_CHARACTERS and "=?" not in text:
        return text
    return Header(text, "utf-8").encode(linesep="\r\n")


def _reason(what: str, code: int | None) -> str:
    """Without the server's text, which may repeat the address."""
    return what if code is None else f"{what}_{code}"
