"""What is said over one SMTP connection to hand over a mail, and what the replies mean.

aiosmtplib makes the connection, with its TLS and its login. Later on its one command at a time, each with a
timer, would cost more than all else about a mail: where the server takes it (PIPELINING, RFC 2920), the three
commands before the content go out together.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Self, cast

from aiosmtplib import SMTP, SMTPConnectError, SMTPException, SMTPHeloError

LINE_LIMIT_BYTES = 4_096
DONE, GO_AHEAD = 250, 354
TAKEN = (DONE, 251)


class Unavailable(Exception):
    """The server is not there, or said `code` to who wanted to begin a mail. Nothing was sent."""

    def __init__(self, code: int | None = None) -> None:
        super().__init__(code)
        self.code = code


class ReplyLost(Exception):
    """The connection ended, or nothing came for too long. `on_its_way`: after the content had been sent."""

    def __init__(self, *, on_its_way: bool) -> None:
        super().__init__(on_its_way)
        self.on_its_way = on_its_way


@dataclass(frozen=True, slots=True)
class Declined:
    """The server does not take the mail: not now, or not ever, as `code` says."""

    code: int
    recipient: bool
    """It has something against the recipient."""


class Dialogue(asyncio.Protocol):
    """One connection past its greeting, with one mail under way at most."""

    def __init__(self, connection: SMTP, transport: asyncio.Transport, timeout_seconds: float) -> None:
        self._connection = connection
        self._transport = transport
        self._timeout_seconds = timeout_seconds
        self._pipelining = connection.supports_extension("pipelining")
        self._unread = b""
        self._replies: deque[int] = deque()
        self._more = asyncio.Event()
        self._in_turn = False
        self._on_its_way = False
        self.is_open = True
        transport.set_protocol(self)

    @classmethod
    async def begin(cls, connection: SMTP, timeout_seconds: float) -> Self:
        """Connect. Raises Unavailable."""
        try:
            await connection.connect()
            if connection.is_ehlo_or_helo_needed:
                try:
                    await connection.ehlo()
                except SMTPHeloError:
                    await connection.helo()
            if connection.transport is None:
                raise Unavailable
        except BaseException as error:
            connection.close()
            if isinstance(error, SMTPConnectError | OSError):
                raise Unavailable from None
            if isinstance(error, SMTPException):
                raise Unavailable(getattr(error, "code", None)) from None
            raise
        return cls(connection, cast(asyncio.Transport, connection.transport), timeout_seconds)

    def close(self) -> None:
        """For good, in the middle of whatever is being said."""
        self.is_open = False
        self._more.set()
        self._transport.abort()
        self._connection.close()

    async def deliver(self, sender: str, to: str, content: bytes) -> Declined | None:
        """Hand a mail over; `content` is lines that end with CR LF, none of which begins with a dot.

        Raises Unavailable or ReplyLost; then, and when cancelled, the connection is closed.
        """
        envelope = (f"MAIL FROM:<{sender}>\r\n".encode("ascii"), f"RCPT TO:<{to}>\r\n".encode("ascii"))
        begun = self._on_its_way = False
        self._in_turn = True
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._begin_mail(*envelope)
                begun = True
                declined = await self._rest_of_mail(envelope[1], content)
        except BaseException as error:
            # Also after a cancellation: nobody knows what the server would answer next.
            self.close()
            if not isinstance(error, ConnectionError | TimeoutError):
                raise
            raise ReplyLost(on_its_way=self._on_its_way) if begun else Unavailable from None
        if declined is not None:
            await self._forget()
        self._in_turn = False
        return declined

    async def _begin_mail(self, mail: bytes, recipient: bytes) -> None:
        code = await self._answer_now(mail + recipient + b"DATA\r\n" if self._pipelining else mail)
        if code != DONE:
            raise Unavailable(code)

    async def _rest_of_mail(self, recipient: bytes, content: bytes) -> Declined | None:
        taken = await self._answer_to(recipient)
        if taken not in TAKEN and not self._pipelining:
            return Declined(taken, recipient=True)
        go_ahead = await self._answer_to(b"DATA\r\n")
        if taken not in TAKEN:
            if go_ahead == GO_AHEAD:
                # It waits for a mail to nobody, which does not come.
                self.close()
            return Declined(taken, recipient=True)
        if go_ahead != GO_AHEAD:
            return Declined(go_ahead, recipient=False)
        self._on_its_way = True
        code = await self._answer_now(content + b".\r\n")
        return None if code == DONE else Declined(code, recipient=False)

    async def _forget(self) -> None:
        """Get ready for another mail; what was declined stays so even if that fails."""
        code = None
        try:
            async with asyncio.timeout(self._timeout_seconds):
                code = await self._answer_now(b"RSET\r\n")
        except (ConnectionError, TimeoutError):
            pass
        finally:
            if code != DONE:
                self.close()

    async def _answer_to(self, command: bytes) -> int:
        """To one that is sent already where all are sent together."""
        return await (self._reply() if self._pipelining else self._answer_now(command))

    async def _answer_now(self, said: bytes) -> int:
        if self.is_open:
            self._transport.write(said)
        return await self._reply()

    async def _reply(self) -> int:
        while not self._replies:
            if not self.is_open:
                raise ConnectionError
            self._more.clear()
            await self._more.wait()
        return self._replies.popleft()

    def data_received(self, data: bytes) -> None:
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            if not self._in_turn or not line[:3].isdigit():
                # Such as a farewell to who was silent for long; it must not be taken for the next reply.
                self.close()
            elif line[3:4] != b"-":
                self._replies.append(int(line[:3]))
        if len(self._unread) > LINE_LIMIT_BYTES:
            self.close()
        self._more.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        self._more.set()
