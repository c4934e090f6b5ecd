"""HTTP/1.1 as a gateway needs it: a small answer to a small request, over connections that are kept.

Our own, because what a general client can do besides (redirects, cookies, streams, compression, hooks) costs
three to four times the processor time of all this, and every order asks seven times. The hard part, to parse,
is httptools': Node's parser, which also reads what comes in here.
"""

import asyncio
import ssl
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from socket import SOCK_STREAM

from aiohappyeyeballs import start_connection
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from yarl import URL

# A server that closes an idle connection just then takes the next request down with it.
IDLE_SECONDS = 15.0
# How long one address of a host is waited for before the next one is tried besides.
NEXT_ADDRESS_SECONDS = 0.25
_LENGTH_SAID = (b"content-length", b"transfer-encoding")
_NO_BODY = (204, 304)


class Unreachable(Exception):
    """There was no connection to be had, so nothing was sent."""


class AnswerLost(Exception):
    """The connection ended before the answer did, or what came was no HTTP."""


class AnswerTooLarge(Exception):
    """More came than an answer may have. `status` is 0 when not even its head was complete."""

    def __init__(self, status: int) -> None:
        super().__init__(f"after status {status}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    content: bytes


class HttpClient:
    """Requests to one base URL, as many at a time as there may be connections."""

    def __init__(
        self, base_url: str, *, connections: int, connect_timeout_seconds: float, answer_limit_bytes: int
    ) -> None:
        """`answer_limit_bytes` bounds an answer, its head included."""
        url = URL(base_url)
        assert url.raw_host is not None, "checked by the settings"
        self._host, self._port = url.raw_host, url.port
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._path = url.raw_path.rstrip("/")
        # The answers are short: to unpack them would take longer than to read them.
        self._same_in_all = (
            f"Host: {url.host_port_subcomponent}\r\n"
            "User-Agent: murmuration\r\nAccept: application/json\r\nAccept-Encoding: identity\r\n"
        )
        if url.user is not None:
            credentials = b64encode(f"{url.user}:{url.password or ''}".encode()).decode()
            self._same_in_all += f"Authorization: Basic {credentials}\r\n"
        self._connect_timeout_seconds = connect_timeout_seconds
        self._answer_limit_bytes = answer_limit_bytes
        self._slots = asyncio.Semaphore(connections)
        self._idle: list[_Connection] = []

    def close(self) -> None:
        """Close the connections on which nothing is under way."""
        while self._idle:
            self._idle.pop().close()

    async def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        """One request, with a JSON body or none. A cancelled one takes its connection along.

        Raises Unreachable, AnswerLost, AnswerTooLarge; and ValueError for a header that would break out.
        """
        message = self._written(method, path, headers, body)
        async with self._slots:
            while True:
                connection = self._idle_connection() or await self._connect()
                try:
                    return await connection.ask(message)
                except AnswerLost:
                    # It was idle, and closed as the request went out; who only asks may ask again.
                    if method != "GET" or not connection.has_served:
                        raise
                finally:
                    if connection.is_open:
                        self._idle.append(connection)

    def _written(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
        lines = [f"{method} {self._path}{path} HTTP/1.1\r\n{self._same_in_all}"]
        for name, value in headers.items():
            if not value.isprintable():
                raise ValueError(f"{name} is not one line of text")
            lines.append(f"{name}: {value}\r\n")
        if body is None:
            return ("".join(lines) + "\r\n").encode()
        lines.append(f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n")
        return "".join(lines).encode() + body

    def _idle_connection(self) -> "_Connection | None":
        """The one used last, so that those which are not needed grow old."""
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_seconds() > IDLE_SECONDS:
                connection.close()
            elif connection.is_open:
                return connection
        return None

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_seconds):
                addresses = await loop.getaddrinfo(self._host, self._port, type=SOCK_STREAM)
                socket = await start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_SECONDS)
                _, connection = await loop.create_connection(
                    lambda: _Connection(loop, self._answer_limit_bytes),
                    sock=socket,
                    ssl=self._tls,
                    server_hostname=self._host if self._tls else None,
                )
        except OSError:  # refused, too late, no such name, a certificate that does not hold
            raise Unreachable from None
        return connection


class _Connection(asyncio.Protocol):
    """One connection, with at most one request under way. The `on_...` are called by the parser."""

    def __init__(self, loop: asyncio.AbstractEventLoop, answer_limit_bytes: int) -> None:
        self._loop = loop
        self._answer_limit_bytes = answer_limit_bytes
        self._parser = HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._idle_since = 0.0
        self.is_open = False
        self.has_served = False

    def idle_seconds(self) -> float:
        """Since its last answer."""
        return self._loop.time() - self._idle_since

    def close(self) -> None:
        """For good."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    async def ask(self, message: bytes) -> Answer:
        """Send a request and wait for its answer."""
        assert self._transport is not None
        self._answer = self._loop.create_future()
        self._received_bytes = 0
        self._begin_message()
        self._transport.write(message)
        try:
            answer = await self._answer
        except BaseException:
            # Also when cancelled: the answer that still comes is nobody's.
            self.close()
            raise
        finally:
            self._answer = None
        self.has_served = True
        self._idle_since = self._loop.time()
        if not self._keep_alive:
            self.close()
        return answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # uvloop's are none by inheritance
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            # More than was asked for: nobody knows what it would be taken for.
            self.close()
            return
        self._received_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self._fail(AnswerLost())
        if self._is_too_large():
            self._fail(AnswerTooLarge(self._status))

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if error is None and self._ends_with_connection:
            self._succeed()
        self._fail(AnswerLost())

    def on_header(self, name: bytes, _value: bytes) -> None:
        if name.lower() in _LENGTH_SAID:
            self._length_said = True

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        self._keep_alive = self._parser.should_keep_alive()
        self._ends_with_connection = not self._length_said and self._status not in _NO_BODY

    def on_body(self, body: bytes) -> None:
        self._content += body

    def on_message_complete(self) -> None:
        if self._status < 200:
            # Such as "103 Early Hints": the answer itself is still to come.
            self._begin_message()
        else:
            self._succeed()

    def on_message_begin(self) -> None:
        if self._answer is None or self._answer.done():
            self.close()

    def _begin_message(self) -> None:
        self._status = 0
        self._content = b""
        self._length_said = self._ends_with_connection = self._keep_alive = False

    def _is_too_large(self) -> bool:
        return self._received_bytes > self._answer_limit_bytes

    def _succeed(self) -> None:
        if self._answer is not None and not self._answer.done() and not self._is_too_large():
            self._answer.set_result(Answer(self._status, self._content))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        if self.is_open:
            self.close()
