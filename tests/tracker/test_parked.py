"""No dead letter is dropped: what the broker gives up delivering is parked, and stays what it is."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractExchange

from compose.local.ports import free_port
from events.messaging import topology
from events.service import DEAD_LETTER_EXCHANGE, PARKED_QUEUE
from payment_svc.service import SERVICE as PAYMENT
from tests.runtime.eventually import eventually
from tests.servers import Servers
from tests.tracker.dead_letters import (
    TOKEN,
    TOKENS,
    dead_letters,
    fail,
    give_up,
    in_queue,
    let_broker_give_up,
    reason_of,
    sees_dead_letters,
    unusable,
)
from tests.tracker.test_process import run
from tests.tracker.watch import Watch, get, new_watch

LIMIT = 2


def limited(vhost_url: str) -> dict[str, Any]:
    """A policy of somebody who wants no message delivered more often."""
    return {
        "policies": [
            {
                "vhost": urlsplit(vhost_url).path.removeprefix("/"),
                "name": "limit",
                "pattern": "dead-letters",
                "apply-to": "queues",
                "priority": 9,
                "definition": {"delivery-limit": LIMIT},
            }
        ]
    }


@pytest.fixture
async def watch(servers: Servers) -> AsyncIterator[Watch]:
    """With payment's real queues, on which there is a limit of deliveries."""
    async with new_watch(servers) as watch:
        await watch.channel.queue_delete(PAYMENT.dead_letter_queue)
        await topology.declare([PAYMENT], watch.broker_url)
        await asyncio.to_thread(servers.import_definitions, limited(watch.broker_url))
        yield watch


async def die_taking_in(watch: Watch) -> None:
    """A tracker that is killed after it has stored a dead letter and before it acknowledges it."""
    process = run(watch, MURMURATION_HTTP_PORT=str(free_port()), MURMURATION_CRASH_AT="before_ack")
    try:
        await asyncio.to_thread(process.wait, 30)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL


async def give_back_until_parked(watch: Watch, count: int) -> None:
    """Whoever takes them in dies before it has stored any."""
    queue = await watch.channel.get_queue(PAYMENT.dead_letter_queue, ensure=False)

    async def parked() -> bool:
        while (taken := await queue.get(fail=False)) is not None:
            await taken.nack(requeue=True)
        return await in_queue(watch, PARKED_QUEUE) == count

    await eventually(parked, why="the broker gives up")


async def holds(watch: Watch, dead: int, parked: int) -> bool:
    found = [await in_queue(watch, name) for name in (PAYMENT.dead_letter_queue, PARKED_QUEUE)]
    return found == [dead, parked]


async def one_of_each_kind(watch: Watch) -> None:
    await give_up(watch, unusable())
    await fail(watch, "refund_failed", uuid4())
    await let_broker_give_up(watch, unusable(headers={"CC": ["payment.elsewhere"]}))
    await eventually(lambda: holds(watch, 3, 0))


def of_each_kind(found: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    assert {dead_letter["service"] for dead_letter in found} == {"payment"}
    return {dead_letter["kind"]: (dead_letter["reason"], dead_letter["wire_name"]) for dead_letter in found}


async def test_letters_outlive_more_deaths_of_the_tracker_than_the_broker_allows(watch: Watch) -> None:
    await one_of_each_kind(watch)
    deaths = 0
    while not await holds(watch, 0, 3):
        assert deaths <= LIMIT + 1, "the broker does not give up"
        await die_taking_in(watch)
        deaths += 1
        await eventually(lambda: comes_to_rest(watch, 3), why="all are back in a queue")
    assert deaths > LIMIT
    # There is no limit any more.
    for _ in range(LIMIT + 1):
        await die_taking_in(watch)
        await eventually(lambda: holds(watch, 0, 3), why="the broker takes them back")
    app = watch.app(await watch.start())
    await eventually(lambda: holds(watch, 0, 0))
    found = of_each_kind(await dead_letters(app))
    assert len(await dead_letters(app)) == 3, "parked or not, it is one letter"
    assert found["unusable"] == ("bad_body", "inventory.stock_reserved.v1")
    assert found["case"] == ("issue_credit_note: refused", "payment.refund_failed.v1")
    assert found["undelivered"] == ("rejected", "inventory.stock_reserved.v1")


async def comes_to_rest(watch: Watch, count: int) -> bool:
    return await in_queue(watch, PAYMENT.dead_letter_queue) + await in_queue(watch, PARKED_QUEUE) == count


async def test_what_was_never_stored_before_is_shown_as_if_nobody_had_parked_it(watch: Watch) -> None:
    await one_of_each_kind(watch)
    await give_back_until_parked(watch, 3)
    app = watch.app(await watch.start(tokens=TOKENS))
    found = await sees_dead_letters(app, 3)
    assert of_each_kind(found).keys() == {"unusable", "case", "undelivered"}
    for dead_letter in found:
        whole = (await get(app, f"/dead-letters/{dead_letter['letter_id']}", token=TOKEN)).json()
        key = "payment.refund_failed.v1" if dead_letter["kind"] == "case" else "inventory.stock_reserved.v1"
        assert whole["routing_key"] == key
        assert PARKED_QUEUE not in str(whole)
        assert "delivery_limit" not in str(whole)


async def test_what_anybody_puts_there_is_a_letter_too(watch: Watch) -> None:
    notes: tuple[Any, ...] = (None, [], [7], [{}], [{"queue": "payment.dead-letters", "routing-keys": 7}])
    default: AbstractExchange = watch.channel.default_exchange
    for number, note in enumerate(notes):
        await default.publish(Message(b"{}", message_id=str(number), headers={"x-death": note}), PARKED_QUEUE)
    app = watch.app(await watch.start())
    found = await sees_dead_letters(app, len(notes))
    assert {dead_letter["service"] for dead_letter in found} == {"unknown"}
    await eventually(lambda: holds(watch, 0, 0))


async def test_what_would_expire_among_the_dead_is_kept(watch: Watch) -> None:
    exchange = await watch.channel.get_exchange(DEAD_LETTER_EXCHANGE)
    await exchange.publish(Message(b"{}", expiration=0.001, headers=reason_of()), "payment")
    await eventually(lambda: holds(watch, 0, 1), why="it is parked")
    app = watch.app(await watch.start())
    (dead_letter,) = await sees_dead_letters(app, 1)
    assert (dead_letter["kind"], dead_letter["reason"]) == ("unusable", "bad_body")
