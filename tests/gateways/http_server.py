"""A server for one party, that says byte by byte what a test tells it to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any

from events.outbound.http_party import HttpParty
from events.runtime.settings import ServiceSettings
from tests.gateways.world import settings_for

LIMIT_BYTES = 1_000
FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"
CLOSE = None
"""Among what a server says: it ends the connection."""


@dataclass
class Server:
    """Answers as it is told to, and notes what it is asked and on how many connections."""

    answers: list[list[bytes | None]] = field(default_factory=lambda: [[FINE]])
    """What it says to each request; the last one to all that follow."""
    asked: list[bytes] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Some client closed its connection."""
    parties: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = [
                    int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")
                ]
                self.asked.append(head + await reader.readexactly(length[0] if length else 0))
                for part in self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]:
                    if part is CLOSE:
                        writer.close()
                        return
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            self.ended.set()

    def party(self, **changes: Any) -> HttpParty:
        return self.party_at(f"http://127.0.0.1:{self.port}/party", **changes)

    def party_at(self, url: str, **changes: Any) -> HttpParty:
        """A client of this server, which is closed with it."""
        given = {
            "call_concurrency": 4,
            "call_timeout_seconds": 4,
            "call_answer_limit_bytes": LIMIT_BYTES,
            "idle_connection_seconds": 15,
            **changes,
        }
        of_settings = {name: given.pop(name) for name in list(given) if name in ServiceSettings.model_fields}
        party = HttpParty("party", url, settings_for(ServiceSettings, None, **of_settings), **given)
        self.parties.push_async_callback(party.close)
        return party


@asynccontextmanager
async def listening(server: Server, tls: SSLContext | None = None) -> AsyncIterator[None]:
    listener = await asyncio.start_server(server.talk, "127.0.0.1", server.port, ssl=tls)
    try:
        yield
    finally:
        await server.parties.aclose()
        listener.close()
        for writer in server.writers:
            writer.close()
