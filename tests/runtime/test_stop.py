"""A graceful stop finishes what has begun, leaves the rest where it is, and ends in time."""

import asyncio
import time
from collections.abc import MutableMapping
from typing import Any
from uuid import UUID, uuid4

from events.runtime.service_runtime import ServiceRuntime
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage
from tests.runtime.toy.decide import Bump
from tests.runtime.toy.facts import Bumped, RingWanted

Logged = list[MutableMapping[str, Any]]


async def test_what_was_delivered_is_finished_and_nothing_goes_back(stage: Stage) -> None:
    host = await stage.start(prefetch=50, batch_size=7)
    held, orders = uuid4(), [uuid4() for _ in range(40)]
    await stage.say(Bumped(order_id=held))
    await eventually(lambda: stage.published(held))
    async with stage.holding(held):
        await stage.say(Bumped(order_id=held), *(Bumped(order_id=order) for order in orders))
        await eventually(lambda: stage.waiting_in_queue_is(0))
        await eventually(stage.blocked)
        stopping = asyncio.create_task(stage.stop(host))
        await eventually(lambda: takes_nothing_new(host))
    await stopping
    assert await stage.counts(orders) == dict.fromkeys(orders, 1)
    assert await stage.size("outbox") == 0
    await eventually(lambda: len(stage.published(*orders)) == 40)
    assert await stage.take_back() == []


async def takes_nothing_new(host: ServiceRuntime) -> bool:
    return not (await host.ready())["consumer"]


async def test_what_was_not_delivered_stays_for_the_next_as_new(stage: Stage) -> None:
    host = await stage.start(prefetch=4, batch_size=2)
    held, orders = uuid4(), [uuid4() for _ in range(20)]
    await stage.say(Bumped(order_id=held))
    await eventually(lambda: stage.published(held))
    async with stage.holding(held):
        await stage.say(Bumped(order_id=held), *(Bumped(order_id=order) for order in orders))
        await eventually(lambda: stage.waiting_in_queue_is(17))
        stopping = asyncio.create_task(stage.stop(host))
        await eventually(lambda: takes_nothing_new(host))
    await stopping
    handled = await stage.counts(orders)
    left = await stage.take_back()
    assert {UUID(one.correlation_id) for one in left} == set(orders) - set(handled)
    assert not [one for one in left if one.redelivered]
    assert await stage.count_of(held) == 2
    assert len(left) >= 10


async def test_beyond_the_grace_period_it_stops_all_the_same_and_nothing_is_lost(stage: Stage) -> None:
    host = await stage.start(stop_grace_seconds=0.3)
    held, orders = uuid4(), [uuid4() for _ in range(5)]
    await stage.say(Bumped(order_id=held))
    await eventually(lambda: stage.published(held))
    async with stage.holding(held):
        await stage.say(Bumped(order_id=held), *(Bumped(order_id=order) for order in orders))
        await eventually(stage.blocked)
        await stage.stop(host)
    assert await stage.counts(orders) == {}
    await stage.start()
    await eventually(lambda: len(set(stage.published(held, *orders))) == 7)
    await eventually(stage.drained)
    assert await stage.counts([held, *orders]) == dict.fromkeys(orders, 1) | {held: 2}


async def test_commands_that_wait_are_answered(stage: Stage) -> None:
    host = await stage.start()
    order = uuid4()
    await host.ask(Bump(order_id=order))
    async with stage.holding(order):
        asking = [asyncio.create_task(host.ask(Bump(order_id=order))) for _ in range(5)]
        await eventually(stage.blocked)
        stopping = asyncio.create_task(stage.stop(host))
        await eventually(lambda: takes_nothing_new(host))
    await stopping
    assert sorted(answer.count for answer in await asyncio.gather(*asking)) == [2, 3, 4, 5, 6]


async def test_a_call_under_way_is_finished_within_the_grace_period(stage: Stage) -> None:
    host = await stage.start(call_timeout_seconds=20)
    order = uuid4()
    await stage.say(RingWanted(order_id=order, plan=("waits",)))
    await eventually(lambda: stage.outside.under_way == 1)
    stopping = asyncio.create_task(stage.stop(host))
    await eventually(lambda: takes_nothing_new(host))
    stage.outside.gate.set()
    await stopping
    await eventually(lambda: stage.published(order, kind="answered"))
    assert await stage.size("calls") == 0


async def test_a_call_beyond_the_grace_period_is_made_again_by_the_next_instance(stage: Stage) -> None:
    host = await stage.start(call_timeout_seconds=20, stop_grace_seconds=0.2)
    order = uuid4()
    await stage.say(RingWanted(order_id=order, plan=("waits",)))
    await eventually(lambda: stage.outside.under_way == 1)
    await stage.stop(host)
    assert await stage.size("calls") == 1
    stage.outside.gate.set()
    await stage.start()
    await eventually(lambda: stage.published(order, kind="answered"))
    assert stage.outside.book.count("asked") == {f"ring:{order}": 2}
    assert stage.outside.book.count("did") == {f"ring:{order}": 1}


async def test_what_it_could_not_publish_any_more_is_published_by_the_next(stage: Stage) -> None:
    proxy = await stage.proxy_broker()
    host = await stage.start(broker_url=proxy.url(stage.broker_url), stop_grace_seconds=0.3)
    order = uuid4()
    proxy.cut()
    await host.ask(Bump(order_id=order))
    await stage.stop(host)
    assert await stage.size("outbox") == 1
    await stage.start()
    await eventually(lambda: stage.published(order))
    await eventually(stage.drained)


async def test_it_stops_in_time_though_the_broker_does_not_answer(stage: Stage, logged: Logged) -> None:
    proxy = await stage.proxy_broker()
    host = await stage.start(broker_url=proxy.url(stage.broker_url), stop_grace_seconds=0.5)
    proxy.freeze()
    await host.ask(Bump(order_id=uuid4()))
    began = time.monotonic()
    await stage.stop(host)
    assert time.monotonic() - began < 20
    assert "stopped" in [line["event"] for line in logged]


async def test_one_that_never_started_stops_too(stage: Stage) -> None:
    broker, database = await stage.proxy_broker(), await stage.proxy_database()
    broker.cut()
    database.cut()
    host = await stage.begin(
        broker_url=broker.url(stage.broker_url), database_url=database.url(stage.database_url)
    )
    await eventually(lambda: database.refused >= 2)
    await stage.stop(host)
