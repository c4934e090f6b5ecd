"""A step that is added to the table is owed from then on: what has ended stays ended."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from events.facts.inventory import StockReleased
from events.facts.order import OrderConfirmed
from saga_tracker import projection
from saga_tracker.projection import State, project
from saga_tracker.steps import Step, name_of
from tests.tracker.told import BEGAN, PATHS, envelopes, heard
from tests.tracker.watch import Watch

CONFIRMED = name_of(OrderConfirmed)


def add(monkeypatch: pytest.MonkeyPatch, since: datetime) -> None:
    """As though loyalty points, say, were due for every order that is confirmed."""
    step = Step(OrderConfirmed, "inventory", (StockReleased,), since=since)
    after = projection._STEPS_AFTER
    monkeypatch.setitem(after, CONFIRMED, [*after[CONFIRMED], step])


@pytest.fixture
def _added_a_moment_later(monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, BEGAN + timedelta(minutes=1))


@pytest.mark.usefixtures("_added_a_moment_later")
@pytest.mark.parametrize("path", [path for path in PATHS.values() if "confirmed" in path.split()])
def test_who_was_confirmed_before_does_not_owe_it(path: str) -> None:
    saga = project(heard(path))
    assert (saga.state, saga.waits) == (State.COMPLETED, ())
    later = [fact._replace(read_at=fact.read_at + timedelta(hours=1)) for fact in heard(path)]
    saga = project(later)
    assert (saga.state, [wait.service for wait in saga.waits]) == (State.COMPLETING, ["inventory"])


async def test_a_rebuild_after_it_re_opens_nothing(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = await watch.start()
    old = [uuid4() for _ in range(3)]
    for order in old:
        await watch.say(*envelopes(PATHS["completed"], order))
    await watch.sees_facts(21)
    await watch.stop(tracker)
    before = await watch.view()
    add(monkeypatch, datetime.now(UTC))
    await watch.rebuild()
    assert await watch.view() == before
    assert await watch.rows("SELECT FROM sagas WHERE due_at IS NOT NULL") == []
    await watch.start()
    order = uuid4()
    # Its publishers say that it is as old as the others: what counts is that it was read later.
    await watch.say(*envelopes(PATHS["completed"], order))
    await watch.sees_facts(28)
    assert await states(watch, [*old, order]) == ["COMPLETED"] * 3 + ["COMPLETING"]


async def states(watch: Watch, orders: list[UUID]) -> list[str | None]:
    return [await watch.state_of(order) for order in orders]
