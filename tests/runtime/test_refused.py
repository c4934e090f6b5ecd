"""What the broker refuses is set aside: it holds up nobody, is tried ever more rarely, and gets there."""

import time
from collections import Counter
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiohttp import ClientSession

from events.runtime.service_runtime import ServiceRuntime
from events.service import EXCHANGE
from tests.metrics import Numbers
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage, is_ready
from tests.runtime.test_relay import DEAD, leave_behind
from tests.runtime.toy.decide import Bump
from tests.runtime.toy.facts import Bumped, Counted, RingWanted

ROOM = 3
REFUSALS = 5
PAUSE_SECONDS = 0.2
# So short that a test waits for several, or so long that none of its own comes while a test runs.
SOON: dict[str, Any] = {
    "refused_pause_seconds": PAUSE_SECONDS,
    "refused_pause_cap_seconds": 60,
    "sweep_seconds": 0.05,
}
LATE: dict[str, Any] = {"refused_pause_seconds": 60, "sweep_seconds": 0.05}


@asynccontextmanager
async def full_queue(stage: Stage) -> AsyncIterator[None]:
    """Somebody's queue, which takes a few of what the toy counts, and inside refuses the rest."""
    name = f"full-{uuid4().hex}"
    arguments: dict[str, Any] = {"x-max-length": ROOM, "x-overflow": "reject-publish"}
    queue = await stage.channel.declare_queue(name, durable=True, arguments=arguments)
    await queue.bind(EXCHANGE, Counted.wire_name)
    try:
        yield
    finally:
        await queue.delete(if_unused=False, if_empty=False)


@asynccontextmanager
async def nobody_there(stage: Stage) -> AsyncIterator[None]:
    """Inside, what the toy counts is routed to no queue."""
    await stage.unbind_stream()
    await stage.deafen(Counted)
    yield
    await stage.listen_to(Counted)


REFUSING = pytest.mark.parametrize("refusing", [full_queue, nobody_there])


async def aside(stage: Stage) -> list[dict[str, Any]]:
    """What is set aside: how often each was refused, whose it is, and in how many seconds it is due."""
    return await stage.rows(
        "SELECT fact_id, owner, order_id, refusals, last_error, due_at,"
        " extract(epoch FROM due_at - now())::float8 AS due_in"
        " FROM outbox WHERE due_at IS NOT NULL ORDER BY refusals"
    )


async def refused(stage: Stage, host: ServiceRuntime, number: int) -> list[UUID]:
    """Commit so many facts that are refused; once that is noted, the orders of those that are set aside."""
    orders = [uuid4() for _ in range(number)]
    for order in orders:
        await host.ask(Bump(order_id=order))

    async def noted() -> bool:
        return await stage.size("outbox") == len(await aside(stage)) >= number - ROOM

    await eventually(noted)
    return [row["order_id"] for row in await aside(stage)]


async def says_nothing_is_refused(host: ServiceRuntime) -> bool:
    return "refused_messages" not in await host.ready()


async def refused_so_often(stage: Stage, times: int) -> bool:
    return max((row["refusals"] for row in await aside(stage)), default=0) >= times


async def paused(stage: Stage, times: int) -> list[dict[str, Any]]:
    """What is set aside, just after one was refused for at least so many times: all of it waits that long."""
    rows = await aside(stage)
    pause = PAUSE_SECONDS * 2.0 ** (rows[-1]["refusals"] - 1)
    as_long = all(pause / 2 < row["due_in"] <= pause for row in rows)
    return rows if as_long and rows[-1]["refusals"] >= times else []


def copies(stage: Stage, orders: Sequence[UUID]) -> Counter[str]:
    return Counter(stage.published(*orders))


@REFUSING
async def test_everything_else_passes_and_it_shows(stage: Stage, refusing: Any) -> None:
    host = await stage.start(relay_in_flight=2, relay_memory=10, **LATE)
    async with refusing(stage), ClientSession() as http:
        held = await refused(stage, host, 20)
        began, rung = time.monotonic(), uuid4()
        await stage.say(RingWanted(order_id=rung))
        await eventually(lambda: stage.published(rung, kind="answered"))
        assert time.monotonic() - began < 30
        await eventually(is_shown_by(host, len(held)))
        async with http.get(f"{await stage.serve(host)}/metrics") as answer:
            numbers = Numbers(await answer.text())
        assert numbers["murmuration_outbox_refused"] == len(held)
        assert await is_ready(host)


def is_shown_by(host: ServiceRuntime, number: int) -> Any:
    async def shown() -> bool:
        return bool((await host.ready()).get("refused_messages", 0) == number)

    return shown


@REFUSING
async def test_pauses_grow_however_many_wait_and_afterwards_all_get_there(
    stage: Stage, refusing: Any
) -> None:
    host = await stage.start(**SOON)
    async with refusing(stage):
        held = await refused(stage, host, 20)
        rows = await eventually(partial(paused, stage, REFUSALS))
        found, times = copies(stage, held), rows[-1]["refusals"]
        # One was tried at a time: all the others together have not been refused more often than that.
        assert sum(row["refusals"] - 1 for row in rows) <= sum(range(times + 1))
        assert sum(found.values()) - len(found) <= times
    await eventually(lambda: len(set(stage.published(*held))) == len(held))
    await eventually(stage.drained)
    assert sum(copies(stage, held).values()) <= 2 * len(held) + times + 2
    await eventually(partial(says_nothing_is_refused, host))


async def test_one_that_is_refused_later_waits_with_the_others(stage: Stage) -> None:
    host = await stage.start(**SOON)
    async with full_queue(stage):
        await refused(stage, host, 10)
        await eventually(lambda: refused_so_often(stage, REFUSALS))

        async def late_ones_join_them() -> bool:
            due = max(row["due_at"] for row in await aside(stage))
            await refused(stage, host, 1 + ROOM)
            return {row["due_at"] for row in await aside(stage)} == {due}

        # Unless on a slow machine it was their turn meanwhile: then all of them wait twice as long.
        await eventually(late_ones_join_them)
    await eventually(stage.drained)


async def test_one_that_nobody_will_ever_take_does_not_keep_back_the_others(
    stage: Stage, logged: list[MutableMapping[str, Any]]
) -> None:
    host = await stage.start(**SOON)
    order = uuid4()
    async with full_queue(stage):
        held = await refused(stage, host, 10)
        await stage.rows(
            "INSERT INTO outbox (owner, fact_id, wire_name, order_id, body, stated_at)"
            " SELECT owner, gen_random_uuid(), wire_name, %(order)s, repeat('x', 2000000), stated_at"
            " FROM outbox LIMIT 1",
            order=order,
        )
        host._relay.look_in_table()
        await eventually(lambda: refused_so_often(stage, 3))
    await eventually(lambda: len(set(stage.published(*held))) == len(held))

    async def one_is_left() -> bool:
        return [row["order_id"] for row in await aside(stage)] == [order] and await stage.size("outbox") == 1

    await eventually(one_is_left)
    (left,) = await aside(stage)
    assert "bytes" in left["last_error"]
    # It goes on being alone: facts of its kind pass it.
    later = uuid4()
    await host.ask(Bump(order_id=later))
    await eventually(lambda: stage.published(later))
    await stage.rows("DELETE FROM outbox")


@REFUSING
async def test_it_does_not_hold_up_a_stop_and_outlasts_a_restart(stage: Stage, refusing: Any) -> None:
    first = await stage.start(**LATE, stop_grace_seconds=60)
    async with refusing(stage):
        held = await refused(stage, first, 8)
        assert first._relay.idle
        began = time.monotonic()
        await stage.stop(first)
        assert time.monotonic() - began < first.settings.stop_grace_seconds / 2
        before = await aside(stage)
        second = await stage.start(**LATE)
        await eventually(is_shown_by(second, len(held)))
        after = await aside(stage)
        assert {row["owner"] for row in after}.isdisjoint({row["owner"] for row in before})
        assert [(row["fact_id"], row["refusals"]) for row in sorted(after, key=str)] == [
            (row["fact_id"], row["refusals"]) for row in sorted(before, key=str)
        ]
    await stage.rows("UPDATE outbox SET due_at = now()")
    await eventually(lambda: len(set(stage.published(*held))) == len(held))
    await eventually(stage.drained)


async def test_of_an_instance_that_dies_another_adopts_what_is_set_aside(stage: Stage) -> None:
    living = await stage.start(**SOON)
    orders = [uuid4() for _ in range(4)]
    async with nobody_there(stage):
        left = await leave_behind(stage, DEAD, *orders, refusals=7)
        await eventually(is_shown_by(living, len(left)))
        assert {row["refusals"] for row in await aside(stage)} == {7}
        assert not stage.published(*orders)
    await stage.rows("UPDATE outbox SET due_at = now() WHERE fact_id = %(one)s", one=UUID(left[0]))
    await eventually(lambda: sorted(stage.published(*orders)) == sorted(left))
    await eventually(stage.drained)


async def test_what_the_service_itself_subscribes_to_goes_on_meanwhile(stage: Stage) -> None:
    """Each order is counted up once for each message, whatever else is refused."""
    host = await stage.start(**SOON)
    async with full_queue(stage):
        held = await refused(stage, host, 10)
        await stage.say(*(Bumped(order_id=order) for order in held))
        await eventually(lambda: stage.waiting_in_queue_is(0))
    await eventually(stage.drained)
    assert await stage.counts(held) == dict.fromkeys(held, 2)
