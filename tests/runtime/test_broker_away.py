"""What counts as a broker that is away: all that a lost connection raises, but not being cancelled."""

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

import aio_pika
import pytest
import uvloop
from aio_pika.abc import AbstractChannel, UnderlayConnection

from compose.drills.local_rig import Proxy
from events.messaging.connection import BROKER_AWAY, closed_means_away, connected, lost_means_away
from events.runtime.settings import ProcessSettings
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage, is_ready, reconnecting
from tests.runtime.toy.service import TOY

ATTEMPTS = 20


async def test_what_was_asked_of_a_lost_channel_is_an_error() -> None:
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(answer.cancel)
    with pytest.raises(ConnectionError), lost_means_away():
        await answer


async def test_who_is_cancelled_ends() -> None:
    async def wait() -> None:
        with lost_means_away():
            await asyncio.sleep(60)

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def settings_of(port: int) -> ProcessSettings:
    return ProcessSettings(
        broker_url=f"amqp://127.0.0.1:{port}/", database_url="postgresql://nowhere", http_port=0
    )


@pytest.mark.parametrize("mistake", [RecursionError, KeyError, TypeError, AttributeError, RuntimeError])
def test_a_mistake_in_the_program_is_not_away(mistake: type[Exception]) -> None:
    assert not issubclass(mistake, BROKER_AWAY)


def test_a_recursion_without_end_passes_where_the_libraries_bare_errors_do_not() -> None:
    with pytest.raises(RecursionError), closed_means_away():
        raise RecursionError
    for bare in (RuntimeError("connection closed"), Exception()):
        with pytest.raises(ConnectionError), closed_means_away():
            raise bare


async def test_a_channel_that_is_closed_while_it_is_asked_is_away(stage: Stage) -> None:
    """aiormq then raises whatever it has at hand, down to a bare Exception."""

    async def ask(channel: AbstractChannel) -> str:
        try:
            with closed_means_away(), lost_means_away():
                await channel.declare_queue(TOY.queue, passive=True)
        except BROKER_AWAY:
            return "away"
        return "answered"

    for yields in range(ATTEMPTS):
        connection = await aio_pika.connect(stage.broker_url)
        channels = [await connection.channel() for _ in range(3)]
        asking = [asyncio.create_task(ask(channel)) for channel in channels]
        for _ in range(yields):
            await asyncio.sleep(0)
        await connection.close()
        assert set(await asyncio.gather(*asking)) <= {"away", "answered"}


def test_who_hangs_up_before_the_handshake_is_away() -> None:
    """As a proxy does before a broker that is away: what aiormq raises then depends on who is quicker."""

    def hang_up(listener: socket.socket) -> None:
        for _ in range(ATTEMPTS):
            listener.accept()[0].close()

    async def attempt(port: int) -> None:
        for _ in range(ATTEMPTS):
            with pytest.raises(BROKER_AWAY):
                async with connected(settings_of(port), "test", timeout_seconds=10):
                    pytest.fail("nobody is there")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=hang_up, args=(listener,), daemon=True).start()
        # The loop that services run on, which is the quicker one.
        uvloop.run(attempt(listener.getsockname()[1]))


@pytest.mark.parametrize("lost", [Proxy.strand, Proxy.cut, Proxy.freeze])
async def test_only_the_connection_in_use_is_made_anew(stage: Stage, lost: Callable[[Proxy], None]) -> None:
    proxy = await stage.proxy_broker()
    host = await stage.start(
        broker_url=proxy.url(stage.broker_url),
        broker_heartbeat_seconds=1,
        broker_connect_timeout_seconds=0.5,
    )
    before = proxy.accepted + proxy.refused
    lost(proxy)
    await eventually(lambda: proxy.accepted + proxy.refused >= before + 2)
    proxy.restore()
    proxy.thaw()
    await eventually(lambda: is_ready(host))
    await eventually(lambda: len(reconnecting()) == 1)


async def test_who_stops_while_connecting_leaves_nobody_who_goes_on(stage: Stage) -> None:
    proxy = await stage.proxy_broker()
    proxy.freeze()
    host = await stage.begin(broker_url=proxy.url(stage.broker_url))
    await eventually(reconnecting)
    await stage.stop(host)
    proxy.thaw()
    await eventually(lambda: not reconnecting())


async def test_an_attempt_that_takes_too_long_leaves_nobody_who_goes_on(stage: Stage) -> None:
    """aiormq, rarely, cancels its own attempt to connect: then aio-pika goes on by itself."""
    attempts = 0
    connect = UnderlayConnection.connect

    async def cancels_itself_at_first(*given: Any, **named: Any) -> UnderlayConnection:
        nonlocal attempts
        attempts += 1
        if attempts < ATTEMPTS:
            raise asyncio.CancelledError
        return await connect(*given, **named)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(UnderlayConnection, "connect", cancels_itself_at_first)
        host = await stage.begin(broker_connect_timeout_seconds=0.1)
        await eventually(lambda: is_ready(host))
    assert attempts > ATTEMPTS
    await eventually(lambda: len(reconnecting()) == 1)
