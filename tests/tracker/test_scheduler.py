"""Who is late is sent what it should have received, then given up; who could not be reached is not late."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from events.facts.order import OrderCreated
from events.facts.saga import SagaTimedOut
from events.messaging.envelope import Envelope, decode
from tests.runtime.eventually import eventually
from tests.tracker.facts import PATHS, envelopes
from tests.tracker.watch import FIVE, Watch, get

STEP_SECONDS = 0.6
HOUR = timedelta(hours=1)


def impatient(**step_seconds: float) -> dict[str, Any]:
    """Settings with short deadlines: for the services named here, or for all."""
    steps = dict.fromkeys(FIVE, 3_600.0 if step_seconds else STEP_SECONDS)
    return {
        "step_deadline_seconds": steps | step_seconds,
        "redrive_grace_seconds": 0.5,
        # Nobody is there who could answer: without this, nobody would be late before two minutes.
        "service_patience_seconds": dict.fromkeys(FIVE, 0.0),
        "overdue_after_seconds": 0.8,
        "deadline_tick_seconds": 0.05,
        "stream_delay_seconds": 0.1,
        "sweep_seconds": 0.1,
        "lease_seconds": 1.0,
    }


def just_now(names: str, order_id: UUID) -> list[Envelope]:
    """As `envelopes`, the last fact published now."""
    return envelopes(names, order_id, datetime.now(UTC) - timedelta(seconds=len(names.split()) - 1))


async def published_by_trackers(watch: Watch, order_id: UUID) -> Counter[str]:
    """What trackers have published of an order, as read back."""
    rows = await watch.rows(
        "SELECT wire_name FROM saga_facts WHERE order_id = %(id)s AND stated_by = 'tracker'", id=order_id
    )
    return Counter(row["wire_name"] for row in rows)


async def states(watch: Watch, order_id: UUID, *wire_names: str) -> None:
    """Wait until trackers have published just this."""

    async def just_this() -> bool:
        return await published_by_trackers(watch, order_id) == Counter(wire_names)

    await eventually(just_this, why=f"{wire_names} stated")


async def shown(watch: Watch, order_id: UUID) -> dict[str, Any]:
    rows = await watch.rows(
        "SELECT state, reason, timed_out, waits FROM sagas WHERE order_id = %(id)s", id=order_id
    )
    return rows[0]


async def stands(watch: Watch, order_id: UUID, state: str, waits_for: str) -> bool:
    saga = await shown(watch, order_id)
    return bool((saga["state"], [wait["service"] for wait in saga["waits"]]) == (state, waits_for.split()))


async def holder(watch: Watch) -> str | None:
    rows = await watch.rows("SELECT holder FROM lease WHERE expires_at > clock_timestamp()")
    name: str | None = rows[0]["holder"] if rows else None
    return name


async def test_who_is_late_once_is_sent_the_fact_it_should_have_received_and_nobody_else_is(
    watch: Watch,
) -> None:
    redrives = await watch.receive_redrives()
    tracker = await watch.start(**impatient(payment=STEP_SECONDS) | {"redrive_grace_seconds": 3_600})
    order = uuid4()
    facts = just_now("created reserved captured", order)
    await watch.say(*facts[:2])
    await states(watch, order, "saga.redriven.v1")
    sent = await redrives.get(timeout=5)
    assert sent is not None
    assert sent.routing_key == "payment"
    assert decode(sent, None) == facts[1]
    (wait,) = (await shown(watch, order))["waits"]
    assert wait["redriven_at"] is not None
    page = await get(watch.app(tracker), f"/ui/sagas/{order}")
    assert "sent once more" in page.text
    timeline = (await get(watch.app(tracker), f"/sagas/{order}")).json()
    (redriven,) = (fact for fact in timeline["facts"] if fact["name"] == "saga.redriven")
    assert (redriven["causation"]["fact_id"], redriven["causation"]["directly"]) == (
        str(facts[1].fact_id),
        True,
    )
    assert timeline["waits"][0]["due_at"] > timeline["waits"][0]["redriven_at"]
    await watch.say(facts[2])
    await eventually(partial(stands, watch, order, "PENDING_SHIPMENT", "fulfillment"))
    assert await redrives.get(fail=False) is None
    await eventually(partial(is_empty, watch, "outbox"))


async def is_empty(watch: Watch, table: str) -> bool:
    assert table == "outbox"
    return not await watch.rows("SELECT FROM outbox")


async def test_who_is_late_for_good_makes_the_saga_time_out_once(watch: Watch) -> None:
    redrives = await watch.receive_redrives()
    tracker = await watch.start(**impatient(inventory=STEP_SECONDS, order=STEP_SECONDS))
    order = uuid4()
    (created,) = just_now("created", order)
    assert isinstance(created.fact, OrderCreated)
    await watch.say(created)
    late = ("saga.redriven.v1", "saga.timed_out.v2")
    await states(watch, order, *late, "saga.redriven.v1", "saga.overdue.v1")
    # Its owner did not answer either, and was sent the timeout once more.
    sent = [await redrives.get(timeout=5) for _ in range(3)]
    assert [message.routing_key for message in sent] == ["inventory", "order", "order"]
    # With what it takes to answer that: the order, which it may never have received.
    timed_out = SagaTimedOut(
        order_id=order,
        waiting_for="inventory.stock_reserved",
        customer=created.fact.customer,
        # No service has a URL here.
        reason="inventory late: nobody knows why",
    )
    sent_again = [decode(message, None).fact for message in sent[1:]]
    assert sorted(sent_again, key=lambda fact: fact.wire_name) == [created.fact, timed_out]
    saga = await shown(watch, order)
    assert (saga["state"], saga["reason"]) == ("NEEDS_MANUAL", "overdue: order.withdrawn")
    assert saga["timed_out"]
    assert [wait["due_at"] for wait in saga["waits"]] == [None]
    assert "timed out" in (await get(watch.app(tracker), f"/ui/sagas/{order}")).text


async def test_an_undo_that_is_late_for_good_needs_a_person_until_it_is_done(watch: Watch) -> None:
    await watch.start(**impatient(payment=STEP_SECONDS))
    order = uuid4()
    facts = just_now("created reserved captured shipment_rejected refunded", order)
    await watch.say(*facts[:4])
    await states(watch, order, "saga.redriven.v1", "saga.overdue.v1")
    saga = await shown(watch, order)
    assert (saga["state"], saga["reason"]) == ("NEEDS_MANUAL", "overdue: payment.refunded")
    await watch.say(facts[4])
    await eventually(partial(stands, watch, order, "COMPENSATING", "inventory"))
    before = await watch.view()
    await watch.rebuild()
    assert await watch.view() == before


async def test_a_parked_saga_has_no_deadline_but_that_of_its_approval(watch: Watch) -> None:
    await watch.start(**impatient(), saga_deadline_seconds=1, approval_deadline_seconds=3)
    order, approved = uuid4(), uuid4()
    await watch.say(*just_now("created reserved held", order), *just_now("created reserved held", approved))
    await watch.sees_facts(6)
    await watch.say(just_now("created reserved held approved captured scheduled confirmed", approved)[3])
    await states(watch, order, "saga.approval_expired.v1")
    assert "saga.approval_expired.v1" not in await published_by_trackers(watch, approved)
    await watch.say(*just_now("created reserved held expired declined", order)[-1:])
    await eventually(partial(stands, watch, order, "COMPENSATING", "inventory"))


async def test_a_tracker_that_was_down_for_an_hour_catches_up_before_it_calls_anybody_late(
    watch: Watch,
) -> None:
    ended, stuck = [uuid4() for _ in range(30)], uuid4()
    began = datetime.now(UTC) - HOUR
    sagas = [envelopes(PATHS["completed"], order, began) for order in ended]
    for facts in zip(*sagas, strict=True):
        await watch.say(*facts)
    await watch.say(*envelopes("created", stuck, began))
    await watch.start(**impatient(), batch_size=5, prefetch=16)
    await states(watch, stuck, "saga.redriven.v1", "saga.timed_out.v2")
    rows = await watch.rows("SELECT state, count(*) AS sagas FROM sagas GROUP BY 1 ORDER BY 1")
    assert rows[0] == {"state": "COMPLETED", "sagas": 30}
    by_tracker = await watch.rows("SELECT DISTINCT order_id FROM saga_facts WHERE stated_by = 'tracker'")
    assert by_tracker == [{"order_id": stuck}]


async def test_while_nobody_can_be_reached_nobody_is_late(watch: Watch) -> None:
    proxy = await watch.proxy_broker()
    await watch.start(
        broker_url=proxy.url(watch.broker_url), **impatient(inventory=1.2), interrupted_after_seconds=0.8
    )
    for hold_up, go_on in ((proxy.cut, proxy.restore), (proxy.freeze, proxy.thaw)):
        order = uuid4()
        facts = just_now("created reserved", order)
        await watch.say(facts[0])
        await eventually(partial(stands, watch, order, "PENDING_INVENTORY", "inventory"))
        hold_up()
        await asyncio.sleep(2.0)  # well past the deadline
        assert await watch.rows("SELECT FROM outbox") == []
        await watch.say(facts[1])
        go_on()
        await eventually(partial(stands, watch, order, "PENDING_PAYMENT", "payment"))
        assert not await published_by_trackers(watch, order)


async def test_whoever_has_caught_up_has_read_all_that_was_published_before(watch: Watch) -> None:
    tracker = await watch.start(stream_delay_seconds=0.1, batch_size=50, prefetch=100, pause_seconds=0)
    published = certain = 0

    async def publish() -> None:
        nonlocal published
        while certain < 5:
            await watch.say_at_once(envelopes(PATHS["completed"], uuid4()))
            published += 8

    publishing = asyncio.create_task(publish())
    while certain < 5:
        before = published
        if await tracker.reader.catch_up() is not None:
            assert await watch.facts_seen() >= before
            certain += 1
    await publishing


async def test_a_stream_that_is_never_silent_keeps_nobody_from_being_late(watch: Watch) -> None:
    await watch.start(**impatient(inventory=STEP_SECONDS))
    order, stop = uuid4(), asyncio.Event()

    async def keep_talking() -> None:
        while not stop.is_set():
            await watch.say(*envelopes(PATHS["completed"], uuid4()))

    talking = asyncio.create_task(keep_talking())
    await watch.say(*just_now("created", order))
    await states(watch, order, "saga.redriven.v1", "saga.timed_out.v2")
    stop.set()
    await talking


async def test_only_who_holds_the_lease_acts(watch: Watch) -> None:
    await watch.rows("UPDATE lease SET holder = 'another', expires_at = now() + interval '1 hour'")
    tracker = await watch.start(**impatient(inventory=STEP_SECONDS))
    order = uuid4()
    await watch.say(*just_now("created", order))
    await eventually(partial(stands, watch, order, "PENDING_INVENTORY", "inventory"))
    await asyncio.sleep(3 * STEP_SECONDS)
    assert await watch.rows("SELECT FROM outbox") == []
    assert not await published_by_trackers(watch, order)
    assert (await get(watch.app(tracker), "/stats")).json()["leader"] == "another"
    await watch.rows("UPDATE lease SET expires_at = now()")
    await eventually(lambda: published_by_trackers(watch, order))
    assert await holder(watch) == tracker.scheduler.name


async def test_when_one_tracker_stops_another_takes_over_at_once(watch: Watch) -> None:
    settings = impatient(inventory=STEP_SECONDS) | {"lease_seconds": 3_600.0}
    first = await watch.start(**settings)
    await eventually(lambda: _holds(watch, first.scheduler.name))
    second = await watch.start(**settings)
    orders = [uuid4(), uuid4()]
    await watch.say(*just_now("created", orders[0]))
    await states(watch, orders[0], "saga.redriven.v1", "saga.timed_out.v2")
    assert await holder(watch) == first.scheduler.name
    await watch.stop(first)
    await watch.say(*just_now("created", orders[1]))
    await states(watch, orders[1], "saga.redriven.v1", "saga.timed_out.v2")
    assert await holder(watch) == second.scheduler.name


async def _holds(watch: Watch, name: str) -> bool:
    return await holder(watch) == name
