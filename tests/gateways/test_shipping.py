"""Fulfilment as it runs with EasyPost, which loses answers, has enough, and is away: one label, or none."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import aio_pika
import psycopg
import pytest
from aiohttp import ClientSession

from events.facts import Fact
from events.facts.base import Line
from events.facts.order import OrderConfirmed, OrderWithdrawn
from events.facts.payment import PaymentCaptured
from events.messaging.envelope import Envelope, encode
from fulfillment_svc.gateway import FulfillmentSettings
from fulfillment_svc.service import SERVICE
from fulfillment_svc.shipment import EASYPOST
from tests.gateways.world import running
from tests.runtime.eventually import eventually
from tests.sandbox.conftest import Client
from tests.sandbox_process import SandboxProcess
from tests.servers import Servers

PAID = {
    "customer": "cust_1",
    "lines": (Line(sku="kettle", quantity=1, amount_minor=1250),),
    "amount_minor": 1250,
    "currency": "EUR",
}
WITHDRAWN, CONFIRMED = "cancelled", "dispatched"


@dataclass
class Depot:
    """A running fulfilment service, whoever publishes to it, and its database."""

    exchange: aio_pika.abc.AbstractExchange
    database_url: str

    async def publish(self, fact: Fact) -> None:
        """As the service would whose fact it is."""
        message = encode(Envelope(uuid4(), fact, fact.owner, datetime.now(UTC)))
        await self.exchange.publish(message, fact.wire_name)

    async def stand(self, status: str) -> set[UUID]:
        """The orders whose shipments stand so, and need nothing of the carrier for it any more."""
        async with await psycopg.AsyncConnection.connect(self.database_url) as connection:
            found = await connection.execute(
                "SELECT order_id FROM shipments WHERE status = %s AND order_id NOT IN"
                " (SELECT order_id FROM calls)",
                [status],
            )
            return {row[0] for row in await found.fetchall()}


@asynccontextmanager
async def shipping(servers: Servers, sandbox: SandboxProcess, **changes: Any) -> AsyncIterator[Depot]:
    easypost: dict[str, Any] = {
        "carrier": EASYPOST,
        "easypost_key": "EZTK_1",
        "easypost_api": sandbox.url,
        "easypost_from": "adr_shop",
        "easypost_late_seconds": 0.5,
    }
    async with running(SERVICE, FulfillmentSettings, servers, sandbox, **easypost, **changes) as known:
        yield Depot(*known)


async def labels_by_order(sandbox: SandboxProcess) -> dict[UUID, list[str]]:
    """By EasyPost's own books: each label that was bought for an order, and what became of its price."""
    found: dict[UUID, list[str]] = {}
    async with ClientSession(sandbox.url, headers={"Authorization": "Bearer EZTK_books"}) as session:
        before = ""
        while True:
            async with session.get(f"/v2/shipments?page_size=100{before}") as answer:
                page: dict[str, Any] = await answer.json()
            for shipment in page["shipments"]:
                if shipment["postage_label"] is not None:
                    back = shipment["refund_status"] or "kept"
                    found.setdefault(UUID(shipment["reference"]), []).append(back)
            if not page["has_more"]:
                return found
            before = f"&before_id={page['shipments'][-1]['id']}"


@pytest.mark.parametrize("rates", [{}, {"fail_rate": 0.1, "lose_answer_rate": 0.1, "rate_limit_rate": 0.1}])
async def test_whoever_is_confirmed_has_one_label_and_whoever_withdraws_none_that_is_paid_for(
    servers: Servers, sandbox: SandboxProcess, client: Client, rates: dict[str, float]
) -> None:
    brief: dict[str, Any] = {"call_backoff_cap_seconds": 0.3, "undo_attempts": 30}
    brief |= {
        "undo_backoff_cap_seconds": 0.3,
        "call_limit_wait_seconds": 0,
        "call_retry_after_cap_seconds": 0,
    }
    async with shipping(servers, sandbox, **brief) as depot:
        await client.faults(target="carrier", seed=7, **rates)
        orders = [uuid4() for _ in range(24)]
        confirmed, cancelled, withdrawn_at_once = set(orders[:8]), set(orders[8:16]), set(orders[16:])
        for order in orders:
            await depot.publish(PaymentCaptured(order_id=order, **PAID))  # type: ignore[arg-type]
        for order in withdrawn_at_once:
            await depot.publish(OrderWithdrawn(order_id=order, reason="cancelled_by_customer"))

        async def scheduled() -> bool:
            return await depot.stand("scheduled") >= confirmed | cancelled

        await eventually(scheduled)
        for order in confirmed:
            fact = OrderConfirmed(order_id=order, customer="cust_1", amount_minor=1250, currency="EUR")
            await depot.publish(fact)
        for order in cancelled:
            await depot.publish(OrderWithdrawn(order_id=order, reason="cancelled_by_customer"))

        async def ended() -> bool:
            gone = await depot.stand(CONFIRMED)
            return gone == confirmed and await depot.stand(WITHDRAWN) == cancelled | withdrawn_at_once

        await eventually(ended)
    await client.behave()
    labels = await labels_by_order(sandbox)
    assert {order: labels[order] for order in confirmed} == {order: ["kept"] for order in confirmed}
    assert {order: labels[order] for order in cancelled} == {order: ["refunded"] for order in cancelled}
    # Nobody knows of these whether the label was bought when they were withdrawn.
    assert {tuple(labels.get(order, ())) for order in withdrawn_at_once} <= {(), ("refunded",)}
