"""Publish one order; prints its id once the broker has confirmed it. BROKER_URL says where the broker is."""

import asyncio
import json
import os
from uuid import uuid4

import aio_pika

TIMEOUT_SECONDS = 10


async def publish_order(broker_url: str) -> str:
    """Publish an order of two apples, and return its id.

    Raises aio_pika.exceptions.DeliveryError when no queue is bound, and TimeoutError when no confirmation
    comes: then publish the same message again.
    """
    order_id = str(uuid4())
    order = {
        "order_id": order_id,
        "customer": "cust_ada",
        "currency": "EUR",
        "payment_token": "tok_ok",
        "lines": [{"sku": "apple", "quantity": 2, "amount_minor": 500}],
    }
    message = aio_pika.Message(
        body=json.dumps(order).encode(),
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=str(uuid4()),
        type="order.created.v2",
        app_id="webshop",
        correlation_id=order_id,
    )
    async with (
        await aio_pika.connect(broker_url, timeout=TIMEOUT_SECONDS) as connection,
        connection.channel(on_return_raises=True) as channel,
    ):
        facts = await channel.get_exchange("facts", ensure=False)
        await facts.publish(message, routing_key="order.created.v2", mandatory=True, timeout=TIMEOUT_SECONDS)
    return order_id


if __name__ == "__main__":
    print(asyncio.run(publish_order(os.environ["BROKER_URL"])))
