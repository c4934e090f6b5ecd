"""The listening side of the mail sink: as much of SMTP (RFC 5321, with pipelining) as a sender needs.

Our own, because aiosmtpd takes eight times the processor time.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

from events.telemetry.log import log

MAIL_LIMIT_BYTES = 64 * 1024
LINE_LIMIT_BYTES = 2_000
MAX_RECIPIENTS = 10
END_OF_MAIL = b"\r\n.\r\n"

_ENVELOPE = re.compile(r"(?:FROM|TO): ?<([^<>\s]*)>(.*)", re.IGNORECASE)
_SIZE = re.compile(r" SIZE=(\d{1,12})\b", re.IGNORECASE)


@dataclass(slots=True)
class Envelope:
    """From whom and to whom, as the commands said it."""

    sender: str
    recipients: list[str] = field(default_factory=list)


class Mailboxes(Protocol):
    """What is behind the server."""

    def has(self, address: str) -> bool:
        """Whether mail to it is taken."""

    async def take(self, envelope: Envelope, content: bytes) -> str | None:
        """Keep a mail. The reply, or None: then the connection is to end without one."""


class MailServer:
    """Listens, with a bound on its sessions and on how long one may be idle."""

    def __init__(self, mailboxes: Mailboxes, *, connection_limit: int, timeout_seconds: float) -> None:
        self._mailboxes = mailboxes
        self._connection_limit = connection_limit
        self._timeout_seconds = timeout_seconds
        self._sessions: set[_Session] = set()
        self._server: asyncio.Server | None = None

    @property
    def listening(self) -> bool:
        """Whether mail can come in."""
        return self._server is not None and self._server.is_serving()

    async def listen(self, host: str, port: int) -> None:
        """Start. Raises OSError when the port is taken."""
        self._server = await asyncio.get_running_loop().create_server(self._new_session, host, port)

    async def close(self) -> None:
        """Stop listening and end the sessions."""
        if self._server is not None:
            self._server.close()
            for session in self._sessions.copy():
                session.end()
            await self._server.wait_closed()

    def _new_session(self) -> asyncio.Protocol:
        if len(self._sessions) >= self._connection_limit:
            return _Busy()
        return _Session(self._mailboxes, self._sessions, self._timeout_seconds)


class _Busy(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast and not a check: uvloop's transports are none by inheritance.
        cast(asyncio.WriteTransport, transport).write(b"421 4.3.2 Too many connections, try again later\r\n")
        transport.close()


class _Session(asyncio.Protocol):
    """One connection: commands are answered in their order, those that came together in one go."""

    def __init__(self, mailboxes: Mailboxes, sessions: "set[_Session]", timeout_seconds: float) -> None:
        self._mailboxes = mailboxes
        self._sessions = sessions
        self._timeout_seconds = timeout_seconds
        self._loop = asyncio.get_running_loop()
        self._unread = b""
        self._greeted = False
        self._envelope: Envelope | None = None
        self._in_mail = False
        self._too_large = False
        self._said_enough = False
        self._taking: asyncio.Task[None] | None = None
        self._commands: dict[str, Callable[[str], str]] = {
            "EHLO": self._ehlo,
            "HELO": self._helo,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
            "RSET": self._rset,
            "NOOP": lambda _: "250 2.0.0 OK",
            "VRFY": lambda _: "252 2.0.0 Cannot say, but will take a mail",
            "QUIT": self._quit,
        }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._sessions.add(self)
        self._heard_at = self._loop.time()
        self._end_when_idle()
        self._reply("220 sandbox ESMTP murmuration sandbox")

    def connection_lost(self, error: Exception | None) -> None:
        self._sessions.discard(self)
        self._idle_check.cancel()

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        self._unread += data
        if self._taking is None:
            self._read()
        if len(self._unread) > MAIL_LIMIT_BYTES + LINE_LIMIT_BYTES:
            self._transport.abort()

    def end(self) -> None:
        """Because the server stops."""
        self._transport.close()

    def _end_when_idle(self) -> None:
        left_seconds = self._heard_at + self._timeout_seconds - self._loop.time()
        if left_seconds > 0:
            self._idle_check = self._loop.call_later(left_seconds, self._end_when_idle)
        else:
            self._reply("421 4.4.2 Idle for too long")
            self.end()

    def _read(self) -> None:
        """Take what has come: lines of commands, or a mail up to its end."""
        replies: list[str] = []
        while self._taking is None and not self._said_enough:
            if self._in_mail:
                if not self._read_mail():
                    break
                continue
            line, ended, rest = self._unread.partition(b"\r\n")
            if not ended:
                if len(line) > LINE_LIMIT_BYTES:
                    replies.append("500 5.5.2 Line too long")
                    self._said_enough = True
                break
            self._unread = rest
            replies.append(self._obey(line))
        if replies:
            self._reply("\r\n".join(replies))
        if self._said_enough:
            self.end()

    def _obey(self, line: bytes) -> str:
        verb, _, argument = line.decode("utf-8", "replace").partition(" ")
        command = self._commands.get(verb.upper())
        return "500 5.5.1 Unknown command" if command is None else command(argument)

    def _helo(self, _name: str) -> str:
        self._greeted, self._envelope = True, None
        return "250 sandbox"

    def _ehlo(self, name: str) -> str:
        self._helo(name)
        extensions = (f"SIZE {MAIL_LIMIT_BYTES}", "8BITMIME", "SMTPUTF8", "PIPELINING", "ENHANCEDSTATUSCODES")
        return "\r\n".join(
            ["250-sandbox", *(f"250-{each}" for each in extensions[:-1]), f"250 {extensions[-1]}"]
        )

    def _mail(self, argument: str) -> str:
        given = _ENVELOPE.fullmatch(argument)
        if not self._greeted or self._envelope is not None:
            return "503 5.5.1 Not now"
        if given is None:
            return "501 5.5.4 MAIL FROM:<address>"
        size = _SIZE.search(given[2])
        if size is not None and int(size[1]) > MAIL_LIMIT_BYTES:
            return "552 5.3.4 Too large"
        self._envelope = Envelope(given[1])
        return "250 2.1.0 OK"

    def _rcpt(self, argument: str) -> str:
        given = _ENVELOPE.fullmatch(argument)
        if self._envelope is None:
            return "503 5.5.1 MAIL first"
        if given is None or not given[1]:
            return "501 5.5.4 RCPT TO:<address>"
        if not self._mailboxes.has(given[1]):
            return "550 5.1.1 No such mailbox"
        if len(self._envelope.recipients) >= MAX_RECIPIENTS:
            return "452 4.5.3 Too many recipients"
        self._envelope.recipients.append(given[1])
        return "250 2.1.5 OK"

    def _data(self, _argument: str) -> str:
        if self._envelope is None:
            return "503 5.5.1 MAIL first"
        if not self._envelope.recipients:
            return "554 5.5.1 No recipients"
        self._in_mail, self._too_large = True, False
        # So that a mail that is empty ends like any other.
        self._unread = b"\r\n" + self._unread
        return "354 End with a line that is a dot"

    def _rset(self, _argument: str) -> str:
        self._envelope = None
        return "250 2.0.0 OK"

    def _quit(self, _argument: str) -> str:
        self._said_enough = True
        return "221 2.0.0 Bye"

    def _read_mail(self) -> bool:
        """Whether the mail is complete."""
        content, ended, rest = self._unread.partition(END_OF_MAIL)
        self._too_large = self._too_large or len(content) > MAIL_LIMIT_BYTES
        if not ended:
            if self._too_large:
                self._unread = self._unread[1 - len(END_OF_MAIL) :]
            return False
        envelope, self._envelope = self._envelope, None
        assert envelope is not None
        self._unread, self._in_mail = rest, False
        if self._too_large:
            self._reply("552 5.3.4 Too large")
            return True
        mail = content.replace(b"\r\n..", b"\r\n.")[2:] + b"\r\n"
        self._taking = self._loop.create_task(self._take(self._mailboxes.take(envelope, mail)))
        return True

    async def _take(self, taken: Awaitable[str | None]) -> None:
        try:
            reply = await taken
        except Exception as error:  # noqa: BLE001 - a bug or a full disk is told as transient, and logged
            log.error("mail_failed", exc_info=error)
            reply = "451 4.3.0 Internal error"
        self._taking = None
        if reply is None:
            self._transport.abort()
        elif not self._transport.is_closing():
            self._reply(reply)
            self._read()

    def _reply(self, text: str) -> None:
        self._transport.write(text.encode() + b"\r\n")
