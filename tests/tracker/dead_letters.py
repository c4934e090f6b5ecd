"""Dead letters for tests, sent the way each kind comes about."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import aio_pika
from fastapi import FastAPI

from events.http.tokens import named
from events.messaging.envelope import Envelope, encode
from events.service import DEAD_LETTER_EXCHANGE
from tests.runtime.eventually import eventually
from tests.tracker.facts import envelopes
from tests.tracker.watch import Watch, get

FIRST_AT = datetime(2026, 11, 28, 6, 0, tzinfo=UTC)
LAST_AT = FIRST_AT + timedelta(seconds=31)
# A test's own, of anna and of ben.
TOKEN, BENS = "letmein", "mee-too"
TOKENS = f"{named('anna', 'admin', TOKEN)} {named('ben', 'operator', BENS)}"


def reason_of(
    why: str = "bad_body", *, service: str = "payment", key: str = "inventory.stock_reserved.v1"
) -> dict[str, Any]:
    """The headers that a service puts on a message that it could not use."""
    return {
        "dead_letter_reason": why,
        "dead_letter_detail": "lines: Field required",
        "dead_letter_service": service,
        "dead_letter_attempts": 4,
        "dead_letter_first_at": FIRST_AT.isoformat(),
        "dead_letter_at": LAST_AT.isoformat(),
        "dead_letter_routing_key": key,
    }


def unusable(
    order_id: UUID | None = None, body: bytes = b'{"lines": 7}', headers: dict[str, Any] | None = None
) -> aio_pika.Message:
    """A message that payment could not use, but for the reason."""
    order_id = order_id or uuid4()
    return aio_pika.Message(
        body,
        message_id=str(uuid4()),
        type="inventory.stock_reserved.v1",
        app_id="inventory",
        content_type="application/json",
        correlation_id=str(order_id),
        timestamp=FIRST_AT,
        priority=3,
        headers={"order_id": str(order_id), "x-mine": "kept", **(headers or {})},
    )


async def give_up(
    watch: Watch, *messages: aio_pika.Message, service: str = "payment", why: str = "bad_body"
) -> None:
    """As a service does that cannot use these messages."""
    exchange = await watch.channel.get_exchange(DEAD_LETTER_EXCHANGE)
    for message in messages:
        message.headers = {**message.headers, **reason_of(why, service=service)}
        await exchange.publish(message, service)


async def fail(watch: Watch, name: str, order_id: UUID) -> Envelope:
    """A service publishes that it failed for good; what led to that was published before."""
    published = envelopes(f"created reserved captured withdrawn {name}", order_id)
    await watch.say(*published)
    return published[-1]


async def let_broker_give_up(watch: Watch, message: aio_pika.Message, *, service: str = "payment") -> None:
    """A message that is rejected where the broker dead-letters to a service's queue, as past its limit."""
    queue = await watch.channel.declare_queue(
        exclusive=True,
        arguments={
            "x-dead-letter-exchange": DEAD_LETTER_EXCHANGE,
            "x-dead-letter-routing-key": service,
        },
    )
    await queue.bind("facts", "inventory.stock_reserved.*")
    await watch.publish(message, "inventory.stock_reserved.v1")
    taken = await eventually(lambda: queue.get(fail=False))
    assert taken is not None
    await taken.reject(requeue=False)


async def dead_letters(app: FastAPI, query: str = "") -> list[dict[str, Any]]:
    """What the tracker lists."""
    found: list[dict[str, Any]] = (await get(app, f"/dead-letters?{query}")).json()["dead_letters"]
    return found


async def sees_dead_letters(app: FastAPI, count: int, query: str = "") -> list[dict[str, Any]]:
    """The dead letters, once there are so many."""

    async def enough() -> list[dict[str, Any]]:
        found = await dead_letters(app, query)
        return found if len(found) == count else []

    return await eventually(enough, why=f"{count} letters are seen")


async def in_queue(watch: Watch, name: str) -> int:
    """How many messages are ready in a queue."""
    queue = await watch.channel.declare_queue(name, passive=True)
    return queue.declaration_result.message_count or 0


def refunds_fail(order_id: UUID) -> aio_pika.Message:
    """payment.refund_failed of an order, as it is published."""
    return encode(envelopes("refund_failed", order_id)[0])
