"""The running system as its users meet it: HTTP for stocking, ordering and asking, AMQP for publishing."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import aio_pika
import aiohttp

from compose.local.commands import RigError
from compose.rig import Whereabouts
from compose.waiting import seen_in_time
from events.messaging.topology import PUBLISHER

TIMEOUT_SECONDS = 15

Answer = dict[str, Any]


class Refused(Exception):
    """The system answered with a problem."""

    def __init__(self, status: int, problem: Mapping[str, Any], retry_after: str = "") -> None:
        super().__init__(f"{status}: {problem.get('detail', problem)}")
        self.status = status
        self.problem = problem
        self.retry_after_seconds = float(retry_after) if retry_after.isdigit() else None


@dataclass(frozen=True, slots=True)
class Item:
    """So many units of one SKU, for so much in all."""

    sku: str
    quantity: int
    amount_minor: int


class Shop:
    """A client of one running system. Methods raise Refused, and RigError when nobody answers."""

    def __init__(self, where: Whereabouts, session: aiohttp.ClientSession) -> None:
        # Asked anew each time: of several replicas, another one may be the one to ask.
        self._where = where
        self._token, self._admin_token = where.token, where.admin_token
        self._session = session

    async def stock(self, sku: str, units: int) -> Answer:
        """Have so many units of a SKU in all, as a warehouse's system would."""
        headers = {"Authorization": f"Bearer {self._admin_token}"}
        return await self.ask("inventory", "PUT", f"/stock/{sku}", body={"stocked": units}, headers=headers)

    async def place(self, customer: str, payment_token: str, *items: Item, key: str | None = None) -> UUID:
        """Place an order; a repeat under the same key places no second one."""
        body = {
            "customer": customer,
            "currency": "EUR",
            "payment_token": payment_token,
            "lines": [
                {"sku": item.sku, "quantity": item.quantity, "amount_minor": item.amount_minor}
                for item in items
            ],
        }
        headers = {"Idempotency-Key": key or str(uuid4())}
        order = await self.ask("order", "POST", "/orders", body=body, headers=headers)
        return UUID(order["order_id"])

    async def publish(self, customer: str, payment_token: str, item: Item) -> UUID:
        """Start an order without order_svc: publish `order.created.v1`, as the user `publisher`."""
        return await publish_order_created_v1(
            self._where.broker_url(PUBLISHER),
            customer=customer,
            payment_token=payment_token,
            sku=item.sku,
            quantity=item.quantity,
            amount_minor=item.amount_minor,
        )

    async def cancel(self, order_id: UUID) -> Answer:
        """Withdraw an order that is not confirmed yet."""
        return await self.ask("order", "POST", f"/orders/{order_id}/cancel")

    async def approve(self, order_id: UUID, note: str) -> Answer:
        """Let a held payment go ahead."""
        return await self.ask("payment", "POST", f"/payments/{order_id}/approve", body={"note": note})

    async def settle(self, order_id: UUID, note: str) -> Answer:
        """Say that a person has done outside what a service could not do."""
        return await self.ask("tracker", "POST", f"/sagas/{order_id}/settle", body={"note": note})

    async def replay(self, letter_id: str, note: str) -> Answer:
        """Send a dead letter to its service once more."""
        return await self.ask("tracker", "POST", f"/dead-letters/{letter_id}/replay", body={"note": note})

    async def dead_letters(self, order_id: UUID) -> list[Answer]:
        """What services could not handle of this order, and what they could not do for it."""
        page = await self.ask("tracker", "GET", f"/dead-letters?order_id={order_id}&state=open")
        dead_letters: list[Answer] = page["dead_letters"]
        return dead_letters

    async def order(self, order_id: UUID) -> Answer:
        """An order as order_svc sees it."""
        return await self.ask("order", "GET", f"/orders/{order_id}")

    async def payment(self, order_id: UUID) -> Answer | None:
        """An order's payment; None while there is none."""
        return await self._found("payment", f"/payments/{order_id}")

    async def saga(self, order_id: UUID) -> Answer | None:
        """An order's saga as the tracker sees it, with its timeline; None before its first fact was read."""
        return await self._found("tracker", f"/sagas/{order_id}")

    async def ask(
        self,
        service: str,
        method: str,
        path: str,
        *,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """The JSON answer of one request, with this system's own token unless `headers` have another."""
        headers = {"Authorization": f"Bearer {self._token}", **(headers or {})}
        try:
            async with self._session.request(
                method, self._where.http(service) + path, json=body, headers=headers
            ) as response:
                answer: Answer = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise RigError(f"{service} does not answer {method} {path}: {error!r}") from error
        if response.status >= 400:
            raise Refused(response.status, answer, response.headers.get("Retry-After", ""))
        return answer

    async def _found(self, service: str, path: str) -> Answer | None:
        try:
            return await self.ask(service, "GET", path)
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    async def wait_for_payment(self, order_id: UUID, status: str, timeout_seconds: float) -> None:
        """Wait until an order's payment has this status. Raises TimeoutError."""

        def is_so(payment: Answer | None) -> bool:
            return payment is not None and payment["status"] == status

        payment = await seen_in_time(lambda: self.payment(order_id), is_so, timeout_seconds)
        if not is_so(payment):
            raise TimeoutError(f"the payment of order {order_id} is not {status}: {payment}")


@asynccontextmanager
async def open_shop(where: Whereabouts) -> AsyncIterator[Shop]:
    """A client with connections of its own."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield Shop(where, session)


# An outside publisher that never learned of the newest version of `order.created`, and uses nothing of this
# repository. One to copy is `docs/examples/publish_order.py`.

PUBLISHING_TIMEOUT_SECONDS = 10


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
        await aio_pika.connect(broker_url, timeout=PUBLISHING_TIMEOUT_SECONDS) as connection,
        connection.channel(on_return_raises=True) as channel,
    ):
        facts = await channel.get_exchange("facts")
        await facts.publish(
            message, routing_key="order.created.v1", mandatory=True, timeout=PUBLISHING_TIMEOUT_SECONDS
        )
    return order_id
