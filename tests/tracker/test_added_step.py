"""A step that is added to the table is owed from then on: what has ended stays ended."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from events.facts.inventory import StockReleased
from events.facts.order import OrderConfirmed
from events.service import Step, name_of
from saga_tracker import projection
from saga_tracker.projection import State, project
from tests.runtime.eventually import eventually
from tests.tracker.facts import BEGAN, PATHS, envelopes, facts_named
from tests.tracker.others import others_answering
from tests.tracker.test_scheduler import impatient
from tests.tracker.watch import Watch, get

CONFIRMED = name_of(OrderConfirmed)


def add(monkeypatch: pytest.MonkeyPatch, since: datetime) -> None:
    """As though loyalty points, say, were due for every order that is confirmed."""
    step = Step(OrderConfirmed, (StockReleased,), since=since, service="inventory")
    after = projection._STEPS_AFTER
    monkeypatch.setitem(after, CONFIRMED, [*after[CONFIRMED], step])


@pytest.fixture
def _added_a_moment_later(monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, BEGAN + timedelta(minutes=1))


@pytest.mark.usefixtures("_added_a_moment_later")
@pytest.mark.parametrize("path", [path for path in PATHS.values() if "confirmed" in path.split()])
def test_who_was_confirmed_before_does_not_owe_it(path: str) -> None:
    saga = project(facts_named(path))
    assert (saga.state, saga.waits) == (State.COMPLETED, ())
    hour = timedelta(hours=1)
    read_late = [
        fact._replace(read_at=fact.read_at + hour, stated_at=fact.read_at) for fact in facts_named(path)
    ]
    assert project(read_late).state is State.COMPLETED
    saga = project([fact._replace(read_at=fact.read_at + hour) for fact in facts_named(path)])
    assert (saga.state, [wait.service for wait in saga.waits]) == (State.COMPLETING, ["inventory"])


async def test_a_rebuild_after_it_re_opens_nothing(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = await watch.start()
    old = [uuid4() for _ in range(3)]
    for order in old:
        await watch.say(*envelopes(PATHS["completed"], order))
    await watch.sees_facts(24)
    await watch.stop(tracker)
    before = await watch.view()
    add(monkeypatch, datetime.now(UTC))
    await watch.rebuild()
    assert await watch.view() == before
    assert await watch.rows("SELECT FROM sagas WHERE due_at IS NOT NULL") == []
    await watch.start()
    read_late, new = uuid4(), uuid4()
    # As a tracker that lost its database reads what is as old as the others.
    await watch.say(*envelopes(PATHS["completed"], read_late))
    await watch.say(*envelopes(PATHS["completed"], new, datetime.now(UTC)))
    await watch.sees_facts(40)
    assert await states(watch, [*old, read_late, new]) == ["COMPLETED"] * 4 + ["COMPLETING"]


async def states(watch: Watch, orders: list[UUID]) -> list[str | None]:
    return [await watch.state_of(order) for order in orders]


async def test_who_does_it_without_publishing_it_is_asked(watch: Watch) -> None:
    """As a replica of the release before sells without `inventory.stock_sold`."""
    with others_answering() as others:
        order = uuid4()
        others.completed(order)
        tracker = await watch.start(**impatient(inventory=0.3), **others.settings())
        unstated = PATHS["completed"].replace(" sold", "")
        await watch.say(*envelopes(unstated, order, datetime.now(UTC)))

        async def completed() -> bool:
            return await watch.state_of(order) == "COMPLETED"

        await eventually(completed)
        saga = (await get(watch.app(tracker), f"/sagas/{order}")).json()
        assert saga["reconstructed"]
        assert saga["facts"][-1]["name"] == "inventory.stock_sold"
