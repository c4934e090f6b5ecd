"""A command is answered once it is durable, or refused clearly; it is never lost in between."""

import asyncio
from collections.abc import MutableMapping
from typing import Any
from uuid import uuid4

import pytest

from events.runtime.worker import Overloaded
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage
from tests.runtime.toy.decide import Bump, Tally
from tests.runtime.toy.facts import Bumped

Logged = list[MutableMapping[str, Any]]


async def test_the_answer_comes_after_the_commit(stage: Stage) -> None:
    host = await stage.start()
    order = uuid4()
    assert await host.ask(Bump(order_id=order, by=2)) == Tally(order, count=2)
    assert await stage.count_of(order) == 2
    await eventually(lambda: stage.published(order))


async def test_no_answer_comes_before_the_commit(stage: Stage) -> None:
    host = await stage.start()
    order = uuid4()
    await host.ask(Bump(order_id=order))
    async with stage.holding(order):
        asking = asyncio.create_task(host.ask(Bump(order_id=order)))
        await eventually(stage.blocked)
        assert not asking.done()
        assert len(stage.published(order)) == 1
    assert (await asking).count == 2


async def test_what_decide_raises_is_the_answer_and_concerns_nobody_else(stage: Stage) -> None:
    host = await stage.start()
    orders = [uuid4() for _ in range(9)]
    asked = [
        host.ask(Bump(order_id=order, by=0 if number == 4 else 1)) for number, order in enumerate(orders)
    ]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(answers.pop(4), ValueError)
    assert [answer.count for answer in answers if isinstance(answer, Tally)] == [1] * 8
    assert await stage.count_of(orders[4]) is None


async def test_only_so_many_may_wait(stage: Stage) -> None:
    host = await stage.start(max_pending_commands=5)
    order = uuid4()
    await host.ask(Bump(order_id=order))
    async with stage.holding(order):
        waiting = [asyncio.create_task(host.ask(Bump(order_id=order))) for _ in range(5)]
        await eventually(stage.blocked)
        with pytest.raises(Overloaded):
            await host.ask(Bump(order_id=uuid4()))
    assert len(await asyncio.gather(*waiting)) == 5
    assert (await host.ask(Bump(order_id=order))).count == 7


async def test_a_caller_that_gave_up_still_counts_as_waiting(stage: Stage) -> None:
    """Else a database that is away for long would fill the memory with what nobody waits for."""
    host = await stage.start(max_pending_commands=5, command_timeout_seconds=0.2)
    order = uuid4()
    await host.ask(Bump(order_id=order))
    async with stage.holding(order):
        late = await asyncio.gather(
            *(host.ask(Bump(order_id=order)) for _ in range(5)), return_exceptions=True
        )
        assert [type(answer) for answer in late] == [TimeoutError] * 5
        with pytest.raises(Overloaded):
            await host.ask(Bump(order_id=order))
    # They were not answered in time, but they were taken.
    await eventually(lambda: len(stage.published(order)) == 6)
    assert (await host.ask(Bump(order_id=order))).count == 7


async def test_a_command_goes_before_the_facts_that_wait_and_leaves_them_half_of_a_batch(
    stage: Stage,
) -> None:
    host = await stage.start(batch_size=4)
    held, received, asked = uuid4(), [uuid4() for _ in range(20)], [uuid4() for _ in range(5)]
    await host.ask(Bump(order_id=held))
    async with stage.holding(held):
        first = asyncio.create_task(host.ask(Bump(order_id=held)))
        await eventually(stage.blocked)
        await stage.say(*(Bumped(order_id=order) for order in received))
        await eventually(lambda: stage.waiting_in_queue_is(0))
        asking = [asyncio.create_task(host.ask(Bump(order_id=order))) for order in asked]
        await asyncio.sleep(0)
    await asyncio.gather(first, *asking)
    await eventually(lambda: len(stage.published(*received)) == len(received))
    batches = await stage.rows(
        "SELECT count(*) FILTER (WHERE order_id = ANY(%(asked)s)) AS asked, count(*) AS size FROM tallies"
        " WHERE order_id <> %(held)s GROUP BY xmin::text ORDER BY xmin::text::bigint",
        asked=asked,
        held=held,
    )
    assert [(batch["asked"], batch["size"]) for batch in batches] == [(2, 4), (2, 4), (1, 4)] + [
        (0, 4)
    ] * 3 + [(0, 1)]


async def test_no_more_is_taken_while_too_much_waits_to_be_published(stage: Stage) -> None:
    proxy = await stage.proxy_broker()
    host = await stage.start(
        broker_url=proxy.url(stage.broker_url), max_outbox_backlog=6, relay_memory=3, relay_in_flight=2
    )
    proxy.cut()
    orders = [uuid4() for _ in range(6)]
    for order in orders:
        await host.ask(Bump(order_id=order))
    with pytest.raises(Overloaded):
        await host.ask(Bump(order_id=uuid4()))
    proxy.restore()
    await eventually(lambda: len(stage.published(*orders)) == 6)
    last = uuid4()
    assert (await eventually(lambda: host.ask(Bump(order_id=last)))).count == 1
    await eventually(stage.drained)


async def test_the_backlog_that_an_instance_finds_counts_too(stage: Stage, logged: Logged) -> None:
    proxy = await stage.proxy_broker()
    through_proxy = proxy.url(stage.broker_url)
    first = await stage.start(broker_url=through_proxy, stop_grace_seconds=0.2)
    proxy.cut()
    for _ in range(6):
        await first.ask(Bump(order_id=uuid4()))
    await stage.stop(first)
    before = len(logged)
    second = await stage.begin(broker_url=through_proxy, max_outbox_backlog=6)
    await eventually(lambda: "started" in [line["event"] for line in logged[before:]])
    with pytest.raises(Overloaded):
        await second.ask(Bump(order_id=uuid4()))
    proxy.restore()
    await eventually(stage.drained)
    await second.ask(Bump(order_id=uuid4()))


async def test_a_command_continues_the_trace_it_came_with(stage: Stage) -> None:
    host = await stage.start()
    order, traceparent = uuid4(), f"00-{'ab' * 16}-{'cd' * 8}-01"
    await host.ask(Bump(order_id=order), traceparent)
    await eventually(lambda: stage.published(order))
    assert stage.received[-1].headers["traceparent"] == traceparent
    await stage.say(Bumped(order_id=order))
    await eventually(lambda: len(stage.published(order)) == 2)
    assert stage.received[-1].headers["traceparent"] != traceparent
