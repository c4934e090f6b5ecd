"""What only another release understands, this one leaves to it: calls, their outcomes, and states.

The stage is a replica of the release before, as it were; what a newer one did is put into the tables.
"""

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from typing import Any
from uuid import UUID, uuid4

import pytest

from events.messaging.retries import (
    MAX_ATTEMPTS,
    TIMES_THROUGH_EACH_DELAY,
    History,
    pause_of,
)
from events.messaging.topology import RETRY_DELAYS_SECONDS
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage, new_stage
from tests.runtime.toy.decide import Bump
from tests.runtime.toy.facts import Bumped, RingWanted
from tests.servers import Servers

Logged = list[MutableMapping[str, Any]]
DEAD = 90_001
NOBODY = 0


@pytest.fixture
async def quick(servers: Servers) -> AsyncIterator[Stage]:
    """A stage on which what failed comes back soon."""
    async with new_stage(servers, (0.2, 0.2, 0.2)) as stage:
        await stage.rows("ALTER TABLE tallies ALTER COLUMN count DROP NOT NULL")
        yield stage


async def write_as_newer(stage: Stage, order: UUID) -> None:
    """A state that the toy cannot read: it knows no order without a count."""
    await stage.rows(
        "INSERT INTO tallies (order_id, count) VALUES (%(id)s, NULL)"
        " ON CONFLICT (order_id) DO UPDATE SET count = NULL",
        id=order,
    )


async def write_as_known(stage: Stage, order: UUID) -> None:
    await stage.rows("UPDATE tallies SET count = 0 WHERE order_id = %(id)s", id=order)


async def leave_call(stage: Stage, name: str, request: str, owner: int = DEAD) -> UUID:
    call_id = uuid4()
    await stage.rows(
        "INSERT INTO calls (call_id, owner, name, order_id, request)"
        " VALUES (%(id)s, %(owner)s, %(name)s, gen_random_uuid(), %(request)s::jsonb)",
        id=call_id,
        owner=owner,
        name=name,
        request=request,
    )
    return call_id


async def owner_of(stage: Stage, call_id: UUID) -> int | None:
    found = await stage.rows("SELECT owner FROM calls WHERE call_id = %(id)s", id=call_id)
    return found[0]["owner"] if found else None


def events(logged: Logged, name: str) -> list[MutableMapping[str, Any]]:
    return [line for line in logged if line["event"] == name]


async def test_a_fact_about_a_state_it_cannot_read_waits_for_who_can(quick: Stage, logged: Logged) -> None:
    """However often it comes back here meanwhile. Its neighbours pass."""
    order, other = uuid4(), uuid4()
    await write_as_newer(quick, order)
    await quick.start()
    await quick.say(Bumped(order_id=order), Bumped(order_id=other))
    await eventually(lambda: quick.published(other))
    await eventually(lambda: len(events(logged, "retry_later")) > MAX_ATTEMPTS + 1)
    lines = events(logged, "retry_later")
    assert {line["reason"] for line in lines} == {"not_understood"}
    assert [line["handed_back"] for line in lines] == list(range(1, len(lines) + 1))
    assert {line["attempts"] for line in lines} == {0}
    assert await quick.size("inbox") == 1
    await write_as_known(quick, order)
    await eventually(lambda: quick.published(order))
    assert await quick.count_of(order) == 1
    await eventually(quick.drained)
    assert not await quick.dead_letters()


async def test_whoever_asks_for_such_an_order_is_asked_to_come_again(quick: Stage) -> None:
    order = uuid4()
    await write_as_newer(quick, order)
    host = await quick.start()
    with pytest.raises(Exception, match="another release wrote count"):
        await host.ask(Bump(order_id=order))


@pytest.mark.parametrize("owner", [DEAD, NOBODY])
async def test_a_call_whose_name_it_does_not_know_is_not_adopted(
    stage: Stage, logged: Logged, owner: int
) -> None:
    theirs = await leave_call(stage, "sing", "{}", owner)
    mine = RingWanted(order_id=uuid4(), plan=("answers",))
    await stage.start(sweep_seconds=0.05)
    await stage.say(mine)
    await eventually(lambda: stage.published(mine.order_id, kind="answered"))
    await eventually(lambda: events(logged, "call_not_understood"))
    await asyncio.sleep(0.3)  # several sweeps
    assert await owner_of(stage, theirs) == owner
    assert len(events(logged, "call_not_understood")) == 1
    assert not stage.outside.book.story(f"sing:{mine.order_id}")


async def test_a_call_whose_request_it_cannot_read_is_left_to_others_for_a_while(
    stage: Stage, logged: Logged
) -> None:
    theirs = await leave_call(stage, "ring", '{"a newer release": "says it otherwise"}')
    await stage.start(sweep_seconds=0.05, left_to_others_seconds=60)
    await eventually(lambda: events(logged, "call_not_understood"))
    await eventually(lambda: is_nobodys(stage, theirs))
    await asyncio.sleep(0.3)
    assert await owner_of(stage, theirs) == NOBODY
    assert len(events(logged, "call_not_understood")) == 1


async def test_with_nobody_else_there_it_looks_at_it_again(stage: Stage, logged: Logged) -> None:
    await leave_call(stage, "ring", '{"a newer release": "says it otherwise"}')
    await stage.start(sweep_seconds=0.05, left_to_others_seconds=0.1)
    await eventually(lambda: len(events(logged, "call_not_understood")) > 2)
    assert await stage.size("calls") == 1


async def test_an_outcome_that_meets_a_state_it_cannot_read_is_for_another_replica(quick: Stage) -> None:
    """That one looks up what was done, and learns it."""
    order = uuid4()
    await quick.start(call_timeout_seconds=20, left_to_others_seconds=60, sweep_seconds=0.05)
    await quick.say(RingWanted(order_id=order, plan=("waits",)))
    await eventually(lambda: quick.outside.under_way == 1)
    await write_as_newer(quick, order)
    quick.outside.gate.set()
    await eventually(lambda: all_nobodys(quick))
    [row] = await quick.rows("SELECT attempts, maybe_done FROM calls")
    assert row == {"attempts": 0, "maybe_done": True}
    await write_as_known(quick, order)
    await quick.start(sweep_seconds=0.05)
    await eventually(lambda: quick.published(order, kind="answered"))
    assert quick.outside.book.story(f"ring:{order}") == ["asked", "did", "looked_up"]
    await eventually(quick.drained)


async def is_nobodys(stage: Stage, call_id: UUID) -> bool:
    return await owner_of(stage, call_id) == NOBODY


async def all_nobodys(stage: Stage) -> bool:
    return [row["owner"] for row in await stage.rows("SELECT owner FROM calls")] == [NOBODY]


def test_pauses_of_what_is_for_another_release_grow_and_it_is_never_given_up() -> None:
    last = len(RETRY_DELAYS_SECONDS)
    times = range(1, TIMES_THROUGH_EACH_DELAY * last + 20)
    pauses = [pause_of(History(0, "then", "key", handed_back=number)) for number in times]
    each = [number for number in range(1, last + 1) for _ in range(TIMES_THROUGH_EACH_DELAY)]
    assert pauses == each + [last] * (len(times) - len(each))
    assert pause_of(History(MAX_ATTEMPTS, "then", "key")) is None
