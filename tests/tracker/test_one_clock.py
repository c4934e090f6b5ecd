"""Everything counts from when the tracker read it; what a publisher says of the time is shown."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from events.messaging.envelope import Envelope
from saga_tracker.service import Tracker
from tests.tracker.facts import PATHS, envelopes
from tests.tracker.test_scheduler import impatient, states
from tests.tracker.watch import Watch, get

HOURS_AHEAD = timedelta(hours=2)


def order_published(off_by: timedelta, names: str = "created reserved") -> tuple[UUID, list[Envelope]]:
    """The facts of an order, published now, but for the first: its publisher's clock is wrong."""
    order = uuid4()
    now = datetime.now(UTC)
    facts = [replace(fact, stated_at=now) for fact in envelopes(names, order)]
    return order, [replace(facts[0], stated_at=now + off_by), *facts[1:]]


async def due_in_seconds(watch: Watch, tracker: Tracker, order: UUID) -> float:
    """How long after it was read its deadline is."""
    (wait,) = (await get(watch.app(tracker), f"/sagas/{order}")).json()["waits"]
    return (datetime.fromisoformat(wait["due_at"]) - datetime.fromisoformat(wait["since"])).total_seconds()


async def test_an_order_that_says_it_is_old_fares_as_its_twin_does(watch: Watch) -> None:
    tracker = await watch.start(**impatient(payment=8.0))
    orders = [order_published(-timedelta(seconds=60)), order_published(timedelta(0))]
    for _, facts in orders:
        await watch.say(*facts)
    await watch.sees_facts(4)
    assert [await due_in_seconds(watch, tracker, order) for order, _ in orders] == [8.0, 8.0]
    assert await watch.rows("SELECT FROM outbox") == []
    assert {await watch.state_of(order) for order, _ in orders} == {"PENDING_PAYMENT"}


@pytest.mark.parametrize("off_by", [-timedelta(seconds=60), HOURS_AHEAD])
async def test_whatever_date_it_bears_its_deadline_comes_on_time(watch: Watch, off_by: timedelta) -> None:
    await watch.start(**impatient(inventory=0.6))
    order, (created,) = order_published(off_by, "created")
    await watch.say(created)
    await states(watch, order, "saga.redriven.v1", "saga.timed_out.v2")


async def test_a_date_in_two_hours_makes_no_duration_negative_nor_long_and_is_doubtful(watch: Watch) -> None:
    tracker = await watch.start()
    order, facts = order_published(HOURS_AHEAD, PATHS["completed"])
    await watch.say(*facts)
    await watch.sees_facts(len(facts))
    app = watch.app(tracker)
    saga = (await get(app, f"/sagas/{order}")).json()
    assert 0 <= saga["duration_seconds"] < 30
    assert all(0 <= fact["since_start_seconds"] < 30 for fact in saga["facts"])
    assert [fact["doubtful"] is not None for fact in saga["facts"]] == [True] + [False] * 7
    assert "doubtful" in (await get(app, f"/ui/sagas/{order}")).text
    (durations,) = (await get(app, "/stats")).json()["durations"]
    assert 0 <= durations["p50_seconds"] <= durations["p99_seconds"] < 30
    before = await watch.view()
    await watch.rebuild()
    assert await watch.view() == before


async def test_what_was_read_late_is_not_doubtful(watch: Watch) -> None:
    began = datetime.now(UTC) - timedelta(hours=1)
    order = uuid4()
    await watch.say(*envelopes(PATHS["completed"], order, began))
    tracker = await watch.start()
    await watch.sees_facts(8)
    saga = (await get(watch.app(tracker), f"/sagas/{order}")).json()
    assert [fact["doubtful"] for fact in saga["facts"]] == [None] * 8
    assert saga["duration_seconds"] < 30
    assert "after it was stated" in (await get(watch.app(tracker), f"/ui/sagas/{order}")).text
