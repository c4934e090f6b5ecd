"""A cheap HTTP client: the load shares the machine with what it measures.

It takes a third of the CPU time of a general client at 200 requests a second, and less when many are busy:
whole requests go out as bytes, one at a time on each of a few kept connections, and of the answer only what
is asked for is looked at.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools

MAX_CONNECTIONS = 64
MAX_ATTEMPTS = 3
NOT_ANSWERED = 0


class Answer(NamedTuple):
    """What of an answer matters here. The status is `NOT_ANSWERED` when there was none."""

    status: int
    location: str = ""
    retry_after: str = ""
    body: bytes = b""


Answered = Callable[[Answer], None]


class _Asked(NamedTuple):
    request: bytes
    answered: Answered
    attempts: int = 1


class Poster:
    """Sends requests to one service, of whose instances each connection picks one in turn.

    A request whose connection ends unanswered is sent again: servers close connections that were idle for
    long, and a repeat must be harmless anyway.
    """

    def __init__(self, base_urls: Sequence[str], connections: int = MAX_CONNECTIONS) -> None:
        self._parties = cycle([(at.hostname or "", at.port or 80) for at in map(urlsplit, base_urls)])
        self._connections = connections
        self._open: set[_Connection] = set()
        self._idle: list[_Connection] = []
        self._waiting: deque[_Asked] = deque()
        self._connecting: set[asyncio.Task[None]] = set()
        self._closed = False

    def send(self, request: bytes, answered: Answered) -> None:
        """Send it as soon as a connection is free; `answered` is called once."""
        self._waiting.append(_Asked(request, answered))
        self._pass_on()

    async def ask(self, path: str) -> Answer:
        """What a GET is answered."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.send(
            f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode(),
            lambda found: None if answer.done() else answer.set_result(found),
        )
        return await answer

    def close(self) -> None:
        """Forget what is under way, and let go of all connections."""
        self._closed = True
        for task in self._connecting:
            task.cancel()
        for connection in list(self._open):
            connection.close()

    def _pass_on(self) -> None:
        while self._waiting and self._idle:
            # The one used last: those too many stay idle until the server closes them.
            self._idle.pop().begin(self._waiting.popleft())
        room = self._connections - len(self._open) - len(self._connecting)
        for _ in range(min(room, len(self._waiting) - len(self._connecting))):
            task = asyncio.create_task(self._connect())
            self._connecting.add(task)
            task.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._connecting.discard(task)
        if not self._closed:
            self._pass_on()

    async def _connect(self) -> None:
        host, port = next(self._parties)
        try:
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: _Connection(self), host, port)
        except OSError:
            if self._waiting:
                self._waiting.popleft().answered(Answer(NOT_ANSWERED))

    def opened(self, connection: "_Connection") -> None:
        self._open.add(connection)
        self.free(connection)

    def free(self, connection: "_Connection") -> None:
        """It can take another request."""
        self._idle.append(connection)
        self._pass_on()

    def lost(self, connection: "_Connection", asked: _Asked | None) -> None:
        """It ended, perhaps with a request that was not answered."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._closed or asked is None:
            return
        if asked.attempts >= MAX_ATTEMPTS:
            asked.answered(Answer(NOT_ANSWERED))
        else:
            self._waiting.appendleft(asked._replace(attempts=asked.attempts + 1))
        self._pass_on()


class _Connection(asyncio.Protocol):
    """One request at a time; httptools calls the `on_` methods."""

    def __init__(self, poster: Poster) -> None:
        self._poster = poster
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._asked: _Asked | None = None
        self._location = self._retry_after = ""
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not an isinstance: uvloop's transports are not asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._poster.opened(self)

    def begin(self, asked: _Asked) -> None:
        assert self._transport is not None
        self._asked = asked
        self._location = self._retry_after = ""
        self._body = b""
        self._transport.write(asked.request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"location":
            self._location = value.decode()
        elif name.lower() == b"retry-after":
            self._retry_after = value.decode()

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        asked, self._asked = self._asked, None
        if asked is not None:
            status = self._parser.get_status_code()
            asked.answered(Answer(status, self._location, self._retry_after, self._body))
        if self._parser.should_keep_alive():
            self._poster.free(self)
        else:
            self.close()

    def connection_lost(self, _error: Exception | None) -> None:
        asked, self._asked = self._asked, None
        self._poster.lost(self, asked)
