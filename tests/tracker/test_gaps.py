"""The tracker says what it cannot know, asks the services for it, and marks what follows from that."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from aio_pika.abc import AbstractIncomingMessage

from events.service import EXCHANGE, STREAM
from saga_tracker.consistency.snapshot import STATUSES_AFTER, Proof, ServiceState, proofs
from saga_tracker.projection import SagaFact, State, project
from saga_tracker.service import Tracker
from saga_tracker.steps import SERVICES
from tests.runtime.eventually import eventually
from tests.tracker.facts import BEGAN, PATHS, envelopes
from tests.tracker.others import STATES_WHEN_DONE, Others, others_answering
from tests.tracker.watch import FIVE, Watch, get

QUICKLY = {"stream_answer_seconds": 0.5}


async def lose(watch: Watch, tracker: Tracker, *names: str, orders: list[UUID]) -> None:
    """These facts are published while the tracker is down, and the stream is made anew before it is back."""
    await watch.stop(tracker)
    for order in orders:
        path = "created reserved captured scheduled confirmed dispatched notified"
        await watch.say(
            *(fact for fact in envelopes(path, order) if fact.fact.wire_name.split(".")[1] in names)
        )
    await watch.make_stream_anew()


async def front_page(watch: Watch, tracker: Tracker) -> str:
    return (await get(watch.app(tracker), "/")).text


async def saga(watch: Watch, tracker: Tracker, order: UUID) -> dict[str, Any]:
    found: dict[str, Any] = (await get(watch.app(tracker), f"/sagas/{order}")).json()
    return found


async def in_state(watch: Watch, order: UUID, state: str) -> None:
    async def there() -> bool:
        return await watch.state_of(order) == state

    await eventually(there, why=f"it is {state}")


async def test_a_stream_made_anew_is_shown_and_what_was_missed_is_asked_for(
    watch: Watch,
) -> None:
    with others_answering() as others:
        tracker = await watch.start(**others.settings())
        ended, done, moving = (uuid4() for _ in range(3))
        others.completed(ended, done)
        await watch.say(*envelopes(PATHS["completed"], ended))
        for order in (done, moving):
            await watch.say(*envelopes("created reserved", order))
        await watch.sees_facts(12)
        assert "never read" not in await front_page(watch, tracker)
        assert "never_read" not in await tracker.ready()
        await lose(watch, tracker, "captured", "confirmed", orders=[done, moving])
        tell(
            others,
            moving,
            {"inventory": "reserved", "payment": "captured", "fulfillment": "booking", "order": "placed"},
        )
        tracker = await watch.start(**others.settings(), **QUICKLY)
        await in_state(watch, done, "COMPLETED")
        await in_state(watch, moving, "PENDING_SHIPMENT")
        assert "never read" in await front_page(watch, tracker)
        assert "never read" in (await tracker.ready())["never_read"]
        assert "murmuration_stream_gaps 1.0" in (await get(watch.app(tracker), "/metrics")).text
        assert (await saga(watch, tracker, done))["reconstructed"]
        assert (await saga(watch, tracker, moving))["reconstructed"]
        assert not (await saga(watch, tracker, ended))["reconstructed"]
        assert not await watch.rows("SELECT FROM look_ups")
        rest = envelopes(PATHS["completed"], moving)[3:]
        await watch.say(*rest)
        await in_state(watch, moving, "COMPLETED")
        await watch.rebuild()
        for order in (ended, done, moving):
            assert await watch.state_of(order) == "COMPLETED"


def tell(others: Others, order: UUID, statuses: dict[str, str]) -> None:
    for service, status in statuses.items():
        others.states[service][order] = {"status": status}


async def test_a_saga_that_began_unread_is_looked_up_as_well(watch: Watch) -> None:
    with others_answering() as others:
        tracker = await watch.start(**others.settings())
        await watch.say(*envelopes("created", uuid4()))
        await watch.sees_facts(1)
        order = uuid4()
        await lose(watch, tracker, "created", "stock_reserved", orders=[order])
        tell(others, order, {"order": "placed", "inventory": "reserved", "payment": "captured"})
        await watch.say(envelopes("created reserved captured", order)[-1])
        tracker = await watch.start(**others.settings(), **QUICKLY)

        async def whole() -> bool:
            found = await watch.rows("SELECT FROM saga_facts WHERE order_id = %(id)s", id=order)
            return len(found) == 3

        await eventually(whole)
        assert await watch.state_of(order) == "PENDING_SHIPMENT"


async def test_a_service_that_does_not_answer_is_asked_until_it_does(watch: Watch) -> None:
    with others_answering() as others:
        tracker = await watch.start(**others.settings())
        order = uuid4()
        await watch.say(*envelopes("created reserved", order))
        await watch.sees_facts(2)
        await lose(watch, tracker, "captured", orders=[order])
        others.completed(order)
        others.silent.add("fulfillment")
        tracker = await watch.start(**others.settings(), **QUICKLY)
        await in_state(watch, order, "COMPLETING")
        assert await watch.rows("SELECT FROM look_ups")
        others.silent.clear()
        await in_state(watch, order, "COMPLETED")


async def test_nobody_is_late_for_what_the_tracker_missed_until_it_gives_up_asking(watch: Watch) -> None:
    tracker = await watch.start()
    missed, new = uuid4(), uuid4()
    await watch.say(*envelopes("created reserved", missed))
    await watch.sees_facts(2)
    await lose(watch, tracker, "captured", orders=[missed])
    # The tracker before gave everybody an hour.
    await watch.rows("UPDATE sagas SET due_at = now()")
    redrives = await watch.receive_redrives("payment")
    late = {**QUICKLY, "step_deadline_seconds": dict.fromkeys(FIVE, 0.2), "redrive_grace_seconds": 3_600}
    # Nobody consumes here, which counts as down.
    late["service_patience_seconds"] = dict.fromkeys(FIVE, 0.0)
    await watch.start(**late)
    await watch.say(*envelopes("created reserved", new))
    message = await eventually(lambda: redrives.get(fail=False))
    assert message is not None
    assert message.correlation_id == str(new)
    assert await redrives.get(fail=False) is None
    await watch.rows("UPDATE look_ups SET waited_for_until = now()")
    message = await eventually(lambda: redrives.get(fail=False))
    assert message is not None
    assert message.correlation_id == str(missed)


async def test_what_the_stream_deleted_before_it_was_read_is_a_gap_once(watch: Watch) -> None:
    await small_segments(watch)
    tracker = await watch.start()
    under_way = uuid4()
    await watch.say(*envelopes("created", under_way))
    await watch.sees_facts(1)
    await watch.stop(tracker)
    await watch.say_at_once(envelopes("created", uuid4())[0] for _ in range(MANY))
    # What fills a segment may be deleted at once, all of it: one more, in a segment that stays.
    await watch.say(*envelopes("created", uuid4()))
    await eventually(lambda: was_shortened(watch), why="the broker deletes segments in its own time")
    tracker = await watch.start()

    async def noticed() -> bool:
        return bool(await watch.rows("SELECT FROM stream_gaps"))

    await eventually(noticed)
    # Each segment of the stream takes an offset or two for itself.
    await eventually(lambda: tracker.progress.stream_offset >= MANY)
    await eventually(lambda: tracker.progress.lag == 0)
    assert [row["order_id"] for row in await watch.rows("SELECT order_id FROM look_ups")] == [under_way]
    await watch.stop(tracker)
    tracker = await watch.start()
    (gap,) = await watch.rows("SELECT after_offset, before_offset FROM stream_gaps")
    assert gap["after_offset"] == 0
    assert gap["before_offset"] > 1
    seen = await watch.facts_seen()
    rebuilt = await watch.rebuild()
    assert rebuilt.kept >= 1
    assert await watch.facts_seen() == seen
    assert len(await watch.rows("SELECT FROM stream_gaps")) == 1


MANY = 400


async def small_segments(watch: Watch) -> None:
    """A stream that keeps next to nothing, as one of 20 GB does of a busy year."""
    await watch.channel.queue_delete(STREAM)
    arguments: Any = {
        "x-queue-type": "stream",
        "x-max-length-bytes": 20_000,
        "x-stream-max-segment-size-bytes": 20_000,
    }
    queue = await watch.channel.declare_queue(STREAM, durable=True, arguments=arguments)
    await queue.bind(EXCHANGE, routing_key="#")


async def was_shortened(watch: Watch) -> bool:
    """Whether the stream has lost its beginning."""
    await watch.channel.set_qos(prefetch_count=1)  # a stream is read with a bound only
    queue = await watch.channel.get_queue(STREAM, ensure=False)
    first = asyncio.get_running_loop().create_future()

    async def take(message: AbstractIncomingMessage) -> None:
        await message.ack()
        if not first.done():
            first.set_result(message.headers["x-stream-offset"])

    tag = await queue.consume(take, arguments={"x-stream-offset": "first"})
    try:
        return int(await asyncio.wait_for(first, 5)) > 1
    finally:
        await queue.cancel(tag)


@pytest.mark.parametrize("service", SERVICES)
def test_states_prove_what_their_service_published(service: Any) -> None:
    for fact, statuses in STATUSES_AFTER.items():
        for status in statuses:
            if fact.startswith(f"{service}.") and (fact, status) != ("order.withdrawn", "cancelled"):
                assert fact in [proof.fact for proof in proofs({service: ServiceState(status)})]


def test_whoever_is_cancelled_need_not_have_been_withdrawn() -> None:
    assert proofs({"order": ServiceState("cancelled")}) == [Proof("order.created"), Proof("order.cancelled")]


def test_all_that_a_completed_orders_states_prove_is_a_completed_saga() -> None:
    known = {service: ServiceState(**answer) for service, answer in STATES_WHEN_DONE.items()}
    facts = [SagaFact(uuid4(), proof.fact, BEGAN, ending=proof.ending) for proof in proofs(known)]
    assert project(facts).state is State.COMPLETED
