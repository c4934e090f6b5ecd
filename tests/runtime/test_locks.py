"""A row that somebody else holds is waited for aside: the others pass, and the log says who holds it."""

import time
from collections.abc import MutableMapping
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from events.runtime.service_runtime import ServiceRuntime
from events.storage.database import Locked
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage, is_ready
from tests.runtime.toy.decide import Bump
from tests.runtime.toy.facts import Bumped, RingWanted

Logged = list[MutableMapping[str, Any]]
# As in production, where tests of other things have a row held to hold up a batch.
BOUNDED: dict[str, Any] = {"lock_wait_seconds": 0.5}


async def start_with_a_tally(stage: Stage, **changes: Any) -> tuple[ServiceRuntime, Any]:
    host = await stage.start(**{**BOUNDED, **changes})
    order = uuid4()
    await stage.say(Bumped(order_id=order))
    await eventually(lambda: stage.published(order))
    return host, order


async def test_others_pass_at_once_and_what_is_locked_follows_once_it_is_free(
    stage: Stage, logged: Logged
) -> None:
    host, held = await start_with_a_tally(stage)
    others = [uuid4() for _ in range(20)]
    async with stage.holding(held):
        began = time.monotonic()
        await stage.say(Bumped(order_id=held), *(Bumped(order_id=order) for order in others))
        await stage.say(*(Bumped(order_id=held) for _ in range(3)))
        await eventually(lambda: len(stage.published(*others)) == len(others))
        assert time.monotonic() - began < 30
        (line,) = await eventually(lambda: [line for line in logged if line["event"] == "waits_for_lock"])
        assert line["pid"] > 0
        assert line["state"] == "idle in transaction"
        ready = await host.ready()
        assert f"pid {line['pid']}" in ready["locked"]["session"]
        assert await is_ready(host)
        assert len(stage.published(held)) == 1
    await eventually(lambda: len(stage.published(held)) == 5)
    await eventually(stage.drained)
    assert await stage.count_of(held) == 5
    assert not await stage.dead_letters()
    await eventually(lambda: [line for line in logged if line["event"] == "lock_gone"])
    assert "locked" not in await host.ready()
    assert len([line for line in logged if line["event"] == "waits_for_lock"]) == 1
    assert not [line for line in logged if line["event"] == "outage_began"]


async def test_what_is_locked_for_long_comes_again_for_ever_and_is_never_a_dead_letter(
    stage: Stage, logged: Logged
) -> None:
    host, held = await start_with_a_tally(stage, lock_held_seconds=0.2)
    async with stage.holding(held):
        await stage.say(Bumped(order_id=held))
        # More often than a message that fails is tried.
        await eventually(lambda: [line["event"] for line in logged].count("retry_later") > 5)
        assert "locked" in await host.ready()
        assert not await stage.dead_letters()
    await eventually(lambda: len(stage.published(held)) == 2)
    await eventually(stage.drained)
    assert not await stage.dead_letters()


async def test_more_locked_messages_than_are_delivered_at_once_leave_room_for_others(stage: Stage) -> None:
    _, held = await start_with_a_tally(stage, prefetch=6)
    other = uuid4()
    async with stage.holding(held):
        await stage.say(*(Bumped(order_id=held) for _ in range(20)))
        await stage.say(Bumped(order_id=other))
        await eventually(lambda: stage.published(other))
    await eventually(lambda: len(set(stage.published(held))) == 21)
    await eventually(stage.drained)
    assert await stage.count_of(held) == 21
    assert not await stage.dead_letters()


async def test_a_command_that_meets_a_lock_is_asked_to_come_back(stage: Stage) -> None:
    host, held = await start_with_a_tally(stage)
    url = await stage.serve(host)
    async with stage.holding(held), aiohttp.ClientSession() as http:
        async with http.post(f"{url}/bumps/{held}", json={}) as answer:
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) > 0
            assert "lock" in (await answer.json())["detail"]
        with pytest.raises(Locked):
            await host.ask(Bump(order_id=held))
        assert (await host.ask(Bump(order_id=uuid4()))).count == 1
    assert (await host.ask(Bump(order_id=held))).count == 2


async def test_a_table_that_is_locked_whole_costs_its_gauges_and_no_scrape(stage: Stage) -> None:
    """As during a migration: whoever takes what the database raises takes this as well."""
    host, _ = await start_with_a_tally(stage)
    url = await stage.serve(host)
    async with stage.locking("outbox"), aiohttp.ClientSession() as http, http.get(f"{url}/metrics") as answer:
        assert answer.status == 200
        assert 'murmuration_connected{to="database"} 0.0' in await answer.text()


@pytest.mark.parametrize("held_seconds", [10.0, 0.2])
async def test_the_outcome_of_a_call_waits_for_the_lock_and_is_not_given_up(
    stage: Stage, held_seconds: float, logged: Logged
) -> None:
    _, held = await start_with_a_tally(stage, lock_held_seconds=held_seconds, call_attempts=1)
    await stage.say(RingWanted(order_id=held, plan=("waits",)))
    await eventually(lambda: stage.outside.under_way == 1)
    async with stage.holding(held):
        stage.outside.gate.set()
        if held_seconds < 1:
            await eventually(lambda: stage.outside.book.count("looked_up")[f"ring:{held}"] >= 3)
        else:
            await eventually(lambda: [line for line in logged if line["event"] == "waits_for_lock"])
    await eventually(lambda: stage.published(held, kind="answered"))
    await eventually(stage.drained)
    assert stage.outside.book.count("did") == {f"ring:{held}": 1}
    (row,) = await stage.rows("SELECT answer FROM tallies WHERE order_id = %(id)s", id=held)
    assert row["answer"] in ("answered", "done")


async def test_a_locked_outbox_table_is_no_outage(stage: Stage, logged: Logged) -> None:
    host, order = await start_with_a_tally(stage)
    await eventually(stage.drained)
    other = uuid4()
    async with stage.locking("outbox"):
        await stage.say(Bumped(order_id=other))
        await eventually(lambda: [line for line in logged if line["event"] == "waits_for_lock"])
        assert await is_ready(host)
    await eventually(lambda: stage.published(other))
    await eventually(stage.drained)
    assert not [line for line in logged if line["event"] == "outage_began"]
    assert await stage.count_of(order) == 1
