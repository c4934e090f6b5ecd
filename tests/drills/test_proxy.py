"""The proxy that drills put between a process and a server."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from compose.drills.local_rig import Proxy, proxy_to
from tests.runtime.eventually import eventually

LATENCY_SECONDS = 0.1


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """In front of a server that says everything back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, proxy_to(f"echo://127.0.0.1:{port}/") as proxy:
        yield proxy


async def say(proxy: Proxy, words: bytes) -> tuple[bytes, float]:
    """What comes back over a new connection, and after how many seconds."""
    clock = asyncio.get_running_loop()
    where = urlsplit(proxy.url("echo://anybody/"))
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    began = clock.time()
    try:
        writer.write(words)
        return await reader.read(100), clock.time() - began
    finally:
        writer.transport.abort()


async def test_what_passes_is_delayed_each_way_until_it_is_not(proxy: Proxy) -> None:
    proxy.latency_seconds = LATENCY_SECONDS
    answer, seconds = await say(proxy, b"hello")
    assert answer == b"hello"
    assert seconds >= 2 * LATENCY_SECONDS
    proxy.latency_seconds = 0.0

    async def passes_at_once() -> bool:
        _, seconds = await say(proxy, b"hello")
        return seconds < 2 * LATENCY_SECONDS

    await eventually(passes_at_once)


async def test_who_is_cut_off_gets_no_answer_until_connected_again(proxy: Proxy) -> None:
    proxy.cut()
    try:
        answer, _ = await say(proxy, b"hello")
    except ConnectionError:
        answer = b""
    assert answer == b""
    proxy.restore()
    answer, _ = await say(proxy, b"hello")
    assert answer == b"hello"
