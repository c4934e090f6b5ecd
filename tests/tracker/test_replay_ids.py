"""A dead letter without a usable id is replayed under one of its own, the same for all, the tracker too."""

from collections.abc import Sequence
from uuid import UUID, uuid4

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage
from fastapi import FastAPI

from events.messaging.envelope import encode
from tests.tracker.dead_letters import reason_of, sees_dead_letters
from tests.tracker.facts import envelopes
from tests.tracker.test_replay import ANNA, Ears, act, app, ears, ids
from tests.tracker.watch import Watch

__all__ = ["app", "ears"]
HEARERS = ("order", "inventory")


def order_created(order_id: UUID, message_id: str | None) -> aio_pika.Message:
    message = encode(envelopes("created", order_id)[0])
    message.message_id = message_id
    return message


async def refuse(
    watch: Watch, message: aio_pika.Message, why: str, services: Sequence[str] = HEARERS
) -> None:
    """As services do that cannot use a message: each puts notes of its own on its copy."""
    exchange = await watch.channel.get_exchange("dead-letters")
    for number, service in enumerate(services):
        reasons = reason_of(why, service=service, key="order.created.v2")
        own = {"dead_letter_at": str(number), "traceparent": f"00-{'ab' * 16}-{number + 1:016x}-01"}
        copy = aio_pika.Message(
            message.body,
            headers={**message.headers, **reasons, **own, "x-delivery-count": number},
            message_id=message.message_id,
            type=message.type,
            app_id=message.app_id,
            correlation_id=message.correlation_id,
            timestamp=message.timestamp,
        )
        await exchange.publish(copy, service)


async def replay_all(app: FastAPI) -> None:
    found = ids(await sees_dead_letters(app, len(HEARERS), "state=open"))
    answer = await act(app, "/dead-letters/replay", {**ANNA, "ids": found})
    assert (answer.status, answer.json()["replayed"]) == (200, len(found))


async def facts_named(ears: Ears) -> list[AbstractIncomingMessage]:
    return [await ears.next(service) for service in HEARERS]


@pytest.mark.parametrize("message_id", [None, "7", "\xff" * 100])
async def test_all_services_get_the_same_id_and_the_tracker_sees_the_order(
    watch: Watch, app: FastAPI, ears: Ears, message_id: str | None
) -> None:
    """Where there was none, each service's copy has one that its AMQP library made up."""
    order = uuid4()
    if message_id is not None:
        await watch.publish(order_created(order, message_id), "order.created.v2")
    await refuse(watch, order_created(order, message_id), "no_fact_id")
    await replay_all(app)
    one, other = await facts_named(ears)
    assert one.message_id == other.message_id == str(UUID(one.message_id))
    assert one.body == other.body == order_created(order, None).body
    await watch.sees_order(order)
    facts = await watch.rows("SELECT order_id, fact_id::text AS fact_id, wire_name FROM saga_facts")
    assert facts == [{"order_id": order, "fact_id": one.message_id, "wire_name": "order.created.v2"}]


async def test_replayed_one_after_the_other_it_is_one_saga_and_after_a_rebuild_too(
    watch: Watch, app: FastAPI, ears: Ears
) -> None:
    order = uuid4()
    await refuse(watch, order_created(order, "7"), "no_fact_id")
    for letter_id in ids(await sees_dead_letters(app, 2, "state=open")):
        await act(app, f"/dead-letters/{letter_id}/replay")
    one, other = await facts_named(ears)
    assert one.message_id == other.message_id
    await watch.say(envelopes("created reserved", order)[1])
    await watch.sees_facts(2)
    before = await watch.view()
    await watch.rebuild()
    assert await watch.view() == before
    assert await watch.state_of(order) == "PENDING_PAYMENT"


async def test_what_had_the_id_of_another_order_is_replayed_as_an_order_of_its_own(
    watch: Watch, app: FastAPI, ears: Ears
) -> None:
    first, second, used = uuid4(), uuid4(), str(uuid4())
    for order in (first, second):
        await watch.publish(order_created(order, used), "order.created.v2")
    await refuse(watch, order_created(second, used), "reused_message_id")
    await watch.sees_order(first)
    await replay_all(app)
    one, other = await facts_named(ears)
    assert one.message_id == other.message_id != used
    await watch.sees_order(second)
    reasons = await watch.rows("SELECT reason FROM unreadable_messages")
    assert reasons == [{"reason": "reused_message_id"}]


async def test_other_orders_get_other_ids(watch: Watch, app: FastAPI, ears: Ears) -> None:
    for order in (uuid4(), uuid4()):
        await refuse(watch, order_created(order, "7"), "no_fact_id", ["order"])
    await replay_all(app)
    one, other = await ears.next("order"), await ears.next("order")
    assert one.message_id != other.message_id


async def test_what_the_view_knows_and_what_nobody_can_read_is_not_sent_to_the_tracker(
    watch: Watch, app: FastAPI, ears: Ears
) -> None:
    order = uuid4()
    message = order_created(order, str(uuid4()))
    await watch.publish(message, "order.created.v2")
    await watch.sees_order(order)
    await refuse(watch, message, "ArithmeticError", ["order"])
    await refuse(watch, aio_pika.Message(b"?", message_id="7"), "bad_body", ["inventory"])
    to_tracker = await watch.receive_redrives("tracker")
    await replay_all(app)
    await facts_named(ears)
    assert await to_tracker.get(fail=False) is None


async def test_a_service_that_is_not_there_is_not_taken_to_have_received(watch: Watch, app: FastAPI) -> None:
    """Although another is, and gets the same id."""
    await watch.receive_redrives("order")
    await refuse(watch, order_created(uuid4(), "7"), "no_fact_id")
    found = ids(await sees_dead_letters(app, 2))
    for order in (found, found[::-1]):
        assert (await act(app, "/dead-letters/replay", {**ANNA, "ids": order})).status == 503
    assert {dead_letter["state"] for dead_letter in await sees_dead_letters(app, 2)} == {"open"}
