"""A memory or disk alarm blocks publishers: a service says so, gives nothing up, and goes on afterwards."""

import asyncio
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from compose.local.rabbitmq import MEMORY_LIMIT
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage, is_ready, new_stage
from tests.runtime.toy.decide import Bump
from tests.servers import PrivateServers, private_servers

Logged = list[MutableMapping[str, Any]]
# Short, so that what is blocked for longer shows that it does not count.
PUBLISH_TIMEOUT_SECONDS = 1.0
GIVEN = "the broker blocks publishers: low on memory"


@pytest.fixture(scope="module")
def own_servers() -> Iterator[PrivateServers]:
    """An alarm is the whole broker's: these tests have one of their own."""
    with private_servers() as servers:
        yield servers


@pytest.fixture
async def own_stage(own_servers: PrivateServers) -> AsyncIterator[Stage]:
    async with new_stage(own_servers) as stage:
        yield stage


@asynccontextmanager
async def alarm(servers: PrivateServers) -> AsyncIterator[None]:
    """While inside, the broker is low on memory."""

    async def limit(value: str) -> None:
        await asyncio.to_thread(servers.rig.rabbitmqctl, "set_vm_memory_high_watermark", "absolute", value)

    await limit("1")
    try:
        yield
    finally:
        await limit(MEMORY_LIMIT)


def events(logged: Logged) -> list[str]:
    return [line["event"] for line in logged]


async def test_it_is_not_ready_and_says_why_takes_what_is_asked_and_refuses_nothing(
    own_servers: PrivateServers, own_stage: Stage, logged: Logged
) -> None:
    stage = own_stage
    host = await stage.start(publish_timeout_seconds=PUBLISH_TIMEOUT_SECONDS)
    url = await stage.serve(host)
    orders = [uuid4() for _ in range(10)]
    async with alarm(own_servers), aiohttp.ClientSession() as http:
        await host.ask(Bump(order_id=orders[0]))
        await eventually(lambda: "broker_blocks_publishers" in events(logged))
        async with http.get(f"{url}/readyz") as answer:
            assert answer.status == 503
            ready = await answer.json()
        assert (ready["broker"], ready["broker_blocked"]) == (False, GIVEN)
        assert ready["database"] is ready["consumer"] is ready["runtime"] is True
        async with http.get(f"{url}/metrics") as answer:
            assert "murmuration_broker_blocked 1.0" in await answer.text()
        for order in orders[1:]:
            assert (await host.ask(Bump(order_id=order))).count == 1
        # Longer than any of them may take to be confirmed.
        await asyncio.sleep(PUBLISH_TIMEOUT_SECONDS + 2 * host.settings.sweep_seconds)
        assert await stage.size("outbox") == len(orders)
        assert not stage.published(*orders)
    await eventually(lambda: len(set(stage.published(*orders))) == len(orders))
    await eventually(stage.drained)
    await eventually(lambda: is_ready(host))
    assert "broker_blocked" not in await host.ready()
    assert len(stage.published(*orders)) == len(orders)
    assert events(logged).count("broker_blocks_publishers") == 1
    assert events(logged).count("broker_takes_publishes_again") == 1
    assert not {"message_refused", "outage_began"} & set(events(logged))


async def test_it_stops_in_time_while_it_is_blocked_and_the_next_one_publishes(
    own_servers: PrivateServers, own_stage: Stage, logged: Logged
) -> None:
    stage, order = own_stage, uuid4()
    host = await stage.start(stop_grace_seconds=0.5)
    async with alarm(own_servers):
        await host.ask(Bump(order_id=order))
        await eventually(lambda: "broker_blocks_publishers" in events(logged))
        await stage.stop(host)
    await stage.start()
    await eventually(lambda: stage.published(order))
    await eventually(stage.drained)
