"""A TCP proxy between a service and a server, which cuts, holds up or loses what passes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

CHUNK_BYTES = 65_536
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Loss:
    """An answer that gets lost: of the first request with `request` on a connection that sent `after`."""

    request: bytes
    after: bytes
    at_once: bool


class Proxy:
    """Forwards connections to one server."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener: asyncio.Server | None = None
        self._port = 0
        self._links: set[_Link] = set()
        self._refusing = False
        self.accepted = 0
        self.refused = 0
        self.latency_seconds = 0.0
        self.loss: Loss | None = None
        self.open_gate = asyncio.Event()
        self.open_gate.set()
        self.lost = asyncio.Event()

    def url(self, direct: str) -> str:
        """The same URL, through this proxy."""
        parts = urlsplit(direct)
        credentials = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{credentials}@{LOOPBACK}:{self._port}"))

    async def listen(self) -> None:
        """Accept connections, from now on."""
        self._listener = await asyncio.start_server(self._link, LOOPBACK, 0)
        self._port = self._listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """End every connection and listen no more."""
        if self._listener is not None:
            self._listener.close()
        self.drop_connections()

    def cut(self) -> None:
        """End every connection, and every new one at once, until `restore`."""
        self._refusing = True
        self.drop_connections()

    def restore(self) -> None:
        """Connections are welcome again."""
        self._refusing = False

    def drop_connections(self) -> None:
        """End every connection at once; new ones are welcome."""
        for link in list(self._links):
            link.abort()

    def freeze(self) -> None:
        """Nothing passes, and no sign of it: the far side just does not answer."""
        self.open_gate.clear()

    def strand(self) -> None:
        """Nothing ever passes on the connections there are, though nobody ends them; new ones are fine."""
        for link in self._links:
            link.stranded = True

    def thaw(self) -> None:
        """What was held up passes."""
        self.open_gate.set()

    def lose_answer(self, request: bytes, *, after: bytes = b"", at_once: bool = False) -> None:
        """The next such request reaches the server and is carried out, but the connection dies.

        Once that is done; or `at_once`, so that the client is back while the server is still at it.
        """
        self.loss = Loss(request, after, at_once)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            self.refused += 1
            writer.transport.abort()
            return
        self.accepted += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(self, reader, writer, far_reader, far_writer)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)


class _Link:
    """One connection through the proxy."""

    def __init__(
        self,
        proxy: Proxy,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._near = (reader, writer)
        self._far = (far_reader, far_writer)
        self._sent = b""
        self._losing = False
        self.stranded = False

    async def run(self) -> None:
        there = asyncio.create_task(self._forward(self._near[0], self._far[1], outward=True))
        back = asyncio.create_task(self._forward(self._far[0], self._near[1], outward=False))
        with contextlib.suppress(OSError):
            await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
        if self._losing:
            await self._proxy.lost.wait()
        self.abort()
        await asyncio.gather(there, back, return_exceptions=True)

    def abort(self) -> None:
        for _, writer in (self._near, self._far):
            writer.transport.abort()

    async def _forward(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, outward: bool
    ) -> None:
        while chunk := await source.read(CHUNK_BYTES):
            await self._proxy.open_gate.wait()
            if self._proxy.latency_seconds:
                await asyncio.sleep(self._proxy.latency_seconds)
            if self.stranded:
                await asyncio.Event().wait()
            loss = self._loss(chunk) if outward else None
            if self._losing and not outward:
                # The server has answered, so it has done it.
                self._proxy.lost.set()
                return
            sink.write(chunk)
            await sink.drain()
            if loss is not None and loss.at_once:
                self._near[1].transport.abort()

    def _loss(self, chunk: bytes) -> Loss | None:
        """The loss that begins with this chunk, if one does."""
        loss = self._proxy.loss
        if loss is None:
            return None
        self._sent += chunk
        start = self._sent.find(loss.after)
        if start < 0 or loss.request not in self._sent[start:]:
            return None
        self._proxy.loss, self._losing = None, True
        return loss


@contextlib.asynccontextmanager
async def proxy_to(url: str) -> AsyncIterator[Proxy]:
    """A proxy to the server of a URL."""
    parts: Any = urlsplit(url)
    proxy = Proxy(parts.hostname, parts.port)
    await proxy.listen()
    try:
        yield proxy
    finally:
        proxy.thaw()
        await proxy.close()
