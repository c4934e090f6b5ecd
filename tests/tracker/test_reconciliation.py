"""The tracker compares its view with everybody else's: what it lists, for how long, and what it does not."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from events.storage.database import Connection
from saga_tracker.reconciliation import comparisons
from saga_tracker.reconciliation.comparisons import Outcome, Pace
from saga_tracker.service import Tracker
from tests.runtime.eventually import eventually
from tests.tracker.facts import PATHS, envelopes
from tests.tracker.others import Others, others_answering
from tests.tracker.watch import Watch, get

COMPLETED = PATHS["completed"]


@pytest.fixture
def others() -> Iterator[Others]:
    with others_answering() as others:
        yield others


async def report(watch: Watch, tracker: Tracker, query: str = "") -> dict[str, Any]:
    answer = await get(watch.app(tracker), f"/reconciliation{query}")
    assert answer.status == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def found(watch: Watch, tracker: Tracker) -> set[tuple[UUID, str, str, str]]:
    """The listed differences: order, service, about what, and what was found."""
    listed = (await report(watch, tracker))["differences"]
    return {(UUID(each["order_id"]), each["service"], each["about"], each["found"]) for each in listed}


async def finds(watch: Watch, tracker: Tracker, *expected: tuple[UUID, str, str, str]) -> None:
    async def as_expected() -> bool:
        return await found(watch, tracker) == set(expected)

    await eventually(as_expected, why=f"{expected} and nothing else is listed")


async def all_compared(watch: Watch) -> None:
    async def none_left() -> bool:
        return not await watch.rows("SELECT FROM comparisons")

    await eventually(none_left, why="everything is compared")


async def complete(watch: Watch, *orders: UUID) -> None:
    seen = await watch.facts_seen()
    facts = [fact for order in orders for fact in envelopes(COMPLETED, order)]
    await watch.say_at_once(facts)
    await watch.sees_facts(seen + len(facts))


async def test_what_agrees_is_compared_once_in_bulk_and_not_listed(watch: Watch, others: Others) -> None:
    orders = [uuid4() for _ in range(10)]
    others.completed(*orders)
    tracker = await watch.start(**others.settings())
    await complete(watch, *orders)
    await all_compared(watch)
    assert (await report(watch, tracker))["differences"] == []
    assert set(others.asked.values()) == {10}
    assert others.most_at_once <= 4
    entries = await watch.rows("SELECT count(*) AS entries FROM ledger_entries")
    assert entries == [{"entries": 20}]


async def test_a_difference_is_listed_for_as_long_as_it_is_found(watch: Watch, others: Others) -> None:
    right, wrong = uuid4(), uuid4()
    others.completed(right, wrong)
    others.states["payment"][wrong]["status"] = "declined"
    tracker = await watch.start(**others.settings())
    await complete(watch, right, wrong)
    await finds(watch, tracker, (wrong, "payment", "status", "declined"))
    first = await report(watch, tracker)
    assert (first["listed"], first["unsettled"], first["waiting"]) == (1, 0, 1)
    assert first["differences"][0]["expected"] == "captured"
    assert (await report(watch, tracker, "?service=order"))["differences"] == []

    async def seen_again() -> bool:
        last = (await report(watch, tracker, "?service=payment"))["differences"][0]
        assert last["first_seen_at"] == first["differences"][0]["first_seen_at"]
        return bool(last["last_seen_at"] > first["differences"][0]["last_seen_at"])

    await eventually(seen_again)
    others.states["payment"][wrong]["status"] = "captured"
    await finds(watch, tracker)
    await all_compared(watch)


async def test_what_was_only_on_its_way_is_never_listed(watch: Watch, others: Others) -> None:
    late = uuid4()
    others.completed(late)
    others.states["inventory"][late]["status"] = "reserved"
    settings = others.settings() | {"reconciliation_settle_seconds": 1.0}
    tracker = await watch.start(**settings)
    await complete(watch, late)

    async def suspected() -> bool:
        now = await report(watch, tracker)
        assert not now["differences"]
        return bool(now["unsettled"])

    await eventually(suspected)
    others.states["inventory"][late]["status"] = "sold"
    await all_compared(watch)
    assert await watch.rows("SELECT FROM differences") == []


async def test_orders_that_were_never_seen_are_listed_until_they_are(watch: Watch, others: Others) -> None:
    """Page by page, of every service; those that ended and were forgotten are not."""
    seen, *unseen = (uuid4() for _ in range(8))
    forgotten = uuid4()
    tracker = await watch.start(**{**others.settings("provider"), "reconciliation_walk_orders": 3})
    await complete(watch, seen)
    await watch.rows(
        "INSERT INTO tombstones (order_id, state, ended_at) VALUES (%(id)s, 'COMPLETED', now())", id=forgotten
    )
    others.completed(seen)
    for order in (*unseen, forgotten):
        others.states["order"][order] = {"status": "placed"}
    await finds(watch, tracker, *((order, "order", "saga", "placed") for order in unseen))
    for order in unseen:
        others.completed(order)
    await complete(watch, *unseen)
    await finds(watch, tracker)


async def test_who_does_not_answer_is_no_difference_and_is_compared_later(
    watch: Watch, others: Others
) -> None:
    order = uuid4()
    others.completed(order)
    others.states["inventory"][order]["status"] = "reserved"
    others.states["payment"][order]["status"] = "declined"
    others.silent = {"payment", "provider"}
    tracker = await watch.start(**others.settings())
    await complete(watch, order)
    await finds(watch, tracker, (order, "inventory", "status", "reserved"))
    now = await report(watch, tracker)
    silent = {each["party"]: each["why_not"] for each in now["parties"] if each["why_not"]}
    assert silent.keys() == others.silent
    assert all("it answers 503" in why for why in silent.values())
    assert now["waiting"] == 1
    others.silent = set()
    others.states["inventory"][order]["status"] = "sold"
    await finds(watch, tracker, (order, "payment", "status", "declined"))
    others.silent = {"payment"}
    others.states["payment"][order]["status"] = "captured"

    async def noticed() -> bool:
        return any(each["why_not"] for each in (await report(watch, tracker))["parties"])

    await eventually(noticed)
    assert len(await found(watch, tracker)) == 1, "nobody has said that it was put right"
    others.silent = set()
    await finds(watch, tracker)


async def test_who_has_no_url_is_left_out_and_logged(watch: Watch, others: Others) -> None:
    order = uuid4()
    others.completed(order)
    tracker = await watch.start(**others.settings("payment", "provider"))
    await complete(watch, order)
    await all_compared(watch)
    answered = {
        each["party"]: (each["configured"], each["why_not"])
        for each in (await report(watch, tracker))["parties"]
    }
    assert answered["order"] == (True, None)
    missing = "MURMURATION_SERVICE_URLS has no 'payment', and MURMURATION_SERVICES_URL is not set"
    assert answered["payment"] == (False, missing)
    assert answered["provider"] == (False, "MURMURATION_PROVIDER_LEDGER_URL is not set")
    assert "payment" not in others.asked


async def test_without_any_url_nothing_is_compared_and_nothing_piles_up(watch: Watch) -> None:
    settings = {"reconciliation_interval_seconds": 0.05, "reconciliation_settle_seconds": 0.1}
    tracker = await watch.start(**settings)
    await complete(watch, uuid4(), uuid4())
    await all_compared(watch)
    assert not any(each["configured"] for each in (await report(watch, tracker))["parties"])


async def test_money_that_moves_after_the_end_is_noticed(watch: Watch, others: Others) -> None:
    order, unknown = uuid4(), uuid4()
    others.move("somebody's own reference", "authorised")
    others.completed(order)
    tracker = await watch.start(**others.settings())
    await complete(watch, order)
    await all_compared(watch)
    others.move(order, "refunded", amount_minor=1_500)
    others.move(unknown, "authorised")
    await finds(
        watch,
        tracker,
        (order, "provider", "money", "2500 EUR charged"),
        (unknown, "provider", "money", "0 EUR charged, and 1 authorised"),
    )
    others.move(unknown, "voided")

    async def put_right() -> bool:
        return {each[0] for each in await found(watch, tracker)} == {order}

    await eventually(put_right)


async def test_a_ledger_made_anew_is_read_from_its_beginning(watch: Watch, others: Others) -> None:
    order = uuid4()
    others.completed(order)
    others.move(uuid4(), "authorised", "voided")
    tracker = await watch.start(**others.settings())
    await complete(watch, order)
    await all_compared(watch)
    others.entries.clear()
    others.move(order, "authorised")

    async def read_anew() -> bool:
        return len(await watch.rows("SELECT FROM ledger_entries")) == 1

    await eventually(read_anew)
    await finds(watch, tracker, (order, "provider", "money", "0 EUR charged, and 1 authorised"))


async def test_a_saga_is_compared_whenever_it_ends_and_whenever_its_end_changes(
    watch: Watch, others: Others
) -> None:
    order = uuid4()
    tracker = await watch.start(**others.settings())
    facts = envelopes(COMPLETED, order)
    await watch.say(*facts[:-2])
    await watch.sees_facts(len(facts) - 2)
    # Not before: money that moves for an order that nobody knows is looked into, too.
    others.completed(order)
    await all_compared(watch)
    assert not others.asked
    await watch.say(*facts[-2:])
    await eventually(lambda: others.asked["order"] == 1)
    await all_compared(watch)
    await watch.say(*envelopes("cancelled", order))

    async def a_persons() -> bool:
        return await watch.state_of(order) == "NEEDS_MANUAL"

    await eventually(a_persons)
    # For as long as it needs a person, again and again.
    await eventually(lambda: others.asked["order"] > 3)
    assert await found(watch, tracker) == set()


async def test_a_case_is_compared_until_it_is_settled_which_excuses_the_money(
    watch: Watch, others: Others
) -> None:
    order = uuid4()
    names = "created reserved captured shipment_rejected refund_failed refunded released cancelled"
    facts = envelopes(names, order)
    others.completed(order)
    others.states["order"][order]["status"] = "placed"
    others.states["inventory"][order]["status"] = "reserved"
    others.states["fulfillment"][order]["status"] = "rejected"
    others.states["payment"][order]["status"] = "refund_failed"
    del others.states["notification"][order]
    tracker = await watch.start(**others.settings())
    await watch.say(*facts[:5])
    await eventually(lambda: others.asked["payment"] > 2)
    assert await found(watch, tracker) == set()
    others.states["payment"][order] |= {"status": "refunded", "settled_by": "ada"}
    await finds(watch, tracker, (order, "payment", "status", "refunded"))
    others.states["order"][order]["status"] = "cancelled"
    others.states["inventory"][order]["status"] = "released"
    others.states["notification"][order] = {"status": "sending", "ending": "cancelled"}
    await watch.say(*facts[5:])
    await finds(watch, tracker)
    await all_compared(watch)
    others.states["payment"][order]["settled_by"] = None
    await tracker.reconciler.run_now()
    await finds(watch, tracker, (order, "provider", "money", "4000 EUR charged"))


async def test_two_trackers_do_not_do_it_twice(watch: Watch, others: Others) -> None:
    orders = [uuid4() for _ in range(12)]
    others.completed(*orders)
    for _ in range(2):
        await watch.start(**others.settings())
    await complete(watch, *orders)
    await all_compared(watch)
    assert set(others.asked.values()) == {12}


async def test_a_rebuild_has_everything_compared_again_and_keeps_what_was_found(
    watch: Watch, others: Others
) -> None:
    right, wrong = uuid4(), uuid4()
    others.completed(right, wrong)
    others.states["order"][wrong]["status"] = "placed"
    tracker = await watch.start(**others.settings())
    await complete(watch, right, wrong)
    await finds(watch, tracker, (wrong, "order", "status", "placed"))
    before = (await report(watch, tracker))["differences"][0]["first_seen_at"]
    await watch.rebuild()
    asked = others.asked["payment"]
    await eventually(lambda: others.asked["payment"] > asked + 1)
    assert (await report(watch, tracker))["differences"][0]["first_seen_at"] == before


async def test_a_view_that_is_not_read_is_not_compared(watch: Watch, others: Others) -> None:
    order = uuid4()
    others.completed(order)
    tracker = await watch.start(**others.settings())
    await complete(watch, order)
    await all_compared(watch)
    tracker.progress.reading = False
    # A round that had begun before goes on to its end; the next one does nothing.
    await eventually(lambda: (ended := tracker.reconciler.last_round) and ended.postponed)
    asked = others.asked["order"]
    await tracker.reconciler.run_now()
    now = await report(watch, tracker)
    assert "not read" in now["last_round"]["postponed"]
    assert (now["waiting"], others.asked["order"]) == (1, asked)
    tracker.progress.reading = True
    await all_compared(watch)
    assert others.asked["order"] == asked + 1


@pytest.fixture
async def connection(watch: Watch) -> Any:
    """To the tracker's database, where no tracker runs; every statement is a transaction."""
    async with await psycopg.AsyncConnection[Any].connect(
        watch.database_url, autocommit=True, row_factory=dict_row
    ) as connection:
        yield connection


async def enter(connection: Connection, *order_ids: UUID) -> None:
    await connection.execute(comparisons.COMPARE_LATER, {"order_ids": sorted(order_ids)})


async def test_what_was_taken_by_one_that_died_waits_again(connection: Connection) -> None:
    order = uuid4()
    await enter(connection, order)
    assert await comparisons.take(connection, 60, 60, 10) is None
    taken = await comparisons.take(connection, 0, 0.2, 10)
    assert taken is not None
    assert taken.order_ids == [order]
    assert await comparisons.take(connection, 0, 60, 10) is None

    async def again() -> bool:
        return await comparisons.take(connection, 0, 60, 10) is not None

    await eventually(again)


async def test_what_changed_while_it_was_compared_is_compared_again(connection: Connection) -> None:
    order, other = uuid4(), uuid4()
    await enter(connection, order, other)
    taken = await comparisons.take(connection, 0, 60, 10)
    assert taken is not None
    await enter(connection, order)
    async with connection.transaction():
        outcome = Outcome([order, other], [], frozenset(), [])
        await comparisons.settle(connection, taken, outcome, Pace(1, 60))
    left = await comparisons.take(connection, 0, 60, 10)
    assert left is not None
    assert left.order_ids == [order]


async def test_a_view_that_is_behind_is_not_compared_whenever_the_streams_end_was_looked_at(
    watch: Watch, others: Others
) -> None:
    """The look is made now and then, and the answer may not come: what has arrived is known without it."""
    few, many = uuid4(), [uuid4() for _ in range(3)]
    tracker = await watch.start(
        **others.settings(), batch_size=5, pause_seconds=1_000, lag_probe_seconds=1_000
    )
    await eventually(tracker.reader.has_caught_up)
    await watch.say(*envelopes("created", few))
    await eventually(lambda: tracker.progress.stream_offset == 0)
    for order in many:
        await watch.say(*envelopes(PATHS["completed"], order))
    await eventually(lambda: tracker.reconciler.last_round and tracker.reconciler.last_round.postponed)
    assert not await tracker.reader.has_caught_up()
    assert "behind" in (await report(watch, tracker))["last_round"]["postponed"]
