"""An outside publisher that never learned of the newest version of `order.created`, as the demo has one.

It imports nothing of this repository. One to copy is `docs/examples/publish_order.py`.
"""

import json
from datetime import UTC, datetime
from uuid import UUID, uuid4

import aio_pika

TIMEOUT_SECONDS = 10


async def publish_order_created_v1(
    broker_url: str, *, customer: str, sku: str, quantity: int, amount_minor: int, payment_token: str
) -> UUID:
    """Publish one order in the old, one-line version of the fact; answers the order's id.

    Returns once the broker has confirmed it. Raises aio_pika.exceptions.DeliveryError when nobody listens,
    and asyncio.TimeoutError when no confirmation comes: then publish the same message again, under the same
    message_id, and it still counts once.
    """
    order_id = uuid4()
    order = {
        "order_id": str(order_id),
        "customer": customer,
        "sku": sku,
        "quantity": quantity,
        "amount_minor": amount_minor,
        "currency": "EUR",
        "payment_token": payment_token,
    }
    message = aio_pika.Message(
        body=json.dumps(order).encode(),
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=str(uuid4()),
        type="order.created.v1",
        app_id="webshop",
        correlation_id=str(order_id),
        headers={"stated_at": datetime.now(UTC).isoformat()},
    )
    async with (
        await aio_pika.connect(broker_url, timeout=TIMEOUT_SECONDS) as connection,
        connection.channel(on_return_raises=True) as channel,
    ):
        facts = await channel.get_exchange("facts")
        await facts.publish(message, routing_key="order.created.v1", mandatory=True, timeout=TIMEOUT_SECONDS)
    return order_id
