"""A queue that is full: what it refuses waits by itself, and nothing else waits with it."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import aiohttp
import pytest
from aio_pika.abc import AbstractIncomingMessage

from compose.demo.shop import Item
from compose.drills.stage import killed
from tests.metrics import Numbers
from tests.system.faults.verbs import overheard, restarted
from tests.system.stage import System, until

ORDERS = 300
AT_ONCE = 20
ROOM = 3
FULL_SECONDS = 20.0
# What is refused is tried after 1, 2, 4, 5, 5 ... seconds, so that the test need not wait for minutes.
IMPATIENT = {"MURMURATION_REFUSED_PAUSE_SECONDS": "1", "MURMURATION_REFUSED_PAUSE_CAP_SECONDS": "5"}
ATTEMPTS = 7
PROMPT_SECONDS = 3.0
DRAINED_SECONDS = 60.0

pytestmark = pytest.mark.usefixtures("own_servers")


@asynccontextmanager
async def crammed(system: System, queue: str, room: int) -> AsyncIterator[None]:
    """Inside, a queue has room for so many messages, by a policy."""
    vhost, definition = "/", json.dumps({"max-length": room})
    pattern = f"^{queue.replace('.', '[.]')}$"
    control = system.rig.rabbitmqctl
    await asyncio.to_thread(
        control, "set_policy", "--vhost", vhost, "--apply-to", "queues", "crammed", pattern, definition
    )
    try:
        yield
    finally:
        await asyncio.to_thread(control, "clear_policy", "--vhost", vhost, "crammed")


async def place(system: System, orders: int) -> list[UUID]:
    """Orders that nothing but the queue keeps from completing."""
    item, turn = Item(await system.new_sku(orders), 1, 500), asyncio.Semaphore(AT_ONCE)

    async def one() -> UUID:
        async with turn:
            return await system.shop.place("cust_ada", "tok_ok", item)

    return list(await asyncio.gather(*(one() for _ in range(orders))))


async def all_but_notified(system: System, orders: Sequence[UUID]) -> bool:
    """Whether the tracker waits for nobody but notification, of each of them."""
    rows = await system.execute(
        "tracker", "SELECT state, waits FROM sagas WHERE order_id = ANY(%s)", [list(orders)]
    )
    waits = [(state, {wait["service"] for wait in waits}) for state, waits in rows]
    return len(waits) == len(orders) and all(found == ("COMPLETING", {"notification"}) for found in waits)


async def refused_messages(system: System) -> int:
    """What order_svc, which must be ready, says of it."""
    return int((await system.shop.ask("order", "GET", "/readyz")).get("refused_messages", 0))


async def refused_by_metric(system: System) -> float:
    url = f"{system.rig.addresses.http('order')}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return Numbers(await answer.text())["murmuration_outbox_refused"]


async def seconds_until_everybody_knows(
    system: System, facts: Sequence[AbstractIncomingMessage], order_id: UUID
) -> float:
    """How long after its acceptance an order is published."""
    began = time.monotonic()

    async def known() -> bool:
        return any(fact.type == "order.created.v2" and fact.correlation_id == str(order_id) for fact in facts)

    await until(known)
    return time.monotonic() - began


async def messages_to_customers(system: System, sink: str, orders: Sequence[UUID]) -> Counter[UUID]:
    """How many of the mails, or of the pushes, tell of each order."""
    found: Counter[UUID] = Counter()
    page: dict[str, Any] = {"next_before": 2**62}
    while page["next_before"] is not None:
        page = await system.shop.ask("sandbox", "GET", f"/{sink}/messages?before={page['next_before']}")
        for message in page["messages"]:
            found.update(order for order in orders if str(order) in json.dumps(message))
    return found


async def test_one_full_queue_stops_nothing_else(system: System) -> None:
    """All orders go as far as they can, new ones start at once, and the stream does not fill with copies."""
    async with restarted(system, "order", IMPATIENT), overheard(system) as facts:
        async with killed(system, "notification"), crammed(system, "notification.facts", ROOM):
            orders = await place(system, ORDERS)
            await until(lambda: all_but_notified(system, orders), within_seconds=90)

            async def shown() -> bool:
                held = await refused_messages(system)
                return held > ORDERS / 2 and await refused_by_metric(system) == held

            await until(shown, "readiness and metric do not say the same")

            before = len(facts)
            deadline = time.monotonic() + FULL_SECONDS
            while time.monotonic() < deadline:
                late = (await place(system, 1))[0]
                assert await seconds_until_everybody_knows(system, facts, late) < PROMPT_SECONDS
                orders.append(late)
                await asyncio.sleep(1)
            await until(lambda: all_but_notified(system, orders))
            again = Counter(fact.message_id for fact in facts[before:] if fact.type == "order.confirmed.v1")
            copies = Counter(fact.message_id for fact in facts if fact.type == "order.confirmed.v1")
            assert sum(copies.values()) - len(copies) <= 2 * ATTEMPTS
            assert sum(again.values()) - (len(orders) - ORDERS) <= ATTEMPTS
            others = Counter(fact.message_id for fact in facts if fact.type != "order.confirmed.v1")
            assert set(others.values()) == {1}

        began = time.monotonic()
        await system.settle(dict.fromkeys(orders, "COMPLETED"), DRAINED_SECONDS)
        assert time.monotonic() - began < DRAINED_SECONDS

        async def gone() -> bool:
            return not await refused_messages(system) and not await refused_by_metric(system)

        await until(gone)
    assert await messages_to_customers(system, "mail", orders) == dict.fromkeys(orders, 1)
    assert await messages_to_customers(system, "push", orders) == dict.fromkeys(orders, 1)
