"""Payment as it runs with Stripe: over the sandbox's door, with its webhooks doubled and out of order."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from uuid import UUID

import aio_pika
import psycopg
import pytest
import stripe
from aiohttp import ClientSession

from events.facts import Fact
from events.facts.fulfillment import ShipmentCancelled
from events.facts.payment import (
    PaymentCaptured,
    PaymentDeclined,
    PaymentDisputed,
    PaymentHeld,
    PaymentPending,
    PaymentRefunded,
    PaymentRefundPending,
    PaymentRefundReversed,
)
from events.http.application import create_app
from events.messaging.envelope import decode
from events.messaging.topology import declare
from events.runtime.process import uvicorn_server
from events.runtime.service_runtime import ServiceRuntime
from events.service import EXCHANGE
from payment_svc.payment import Approve
from payment_svc.service import SERVICE, PaymentSettings
from payment_svc.stripe_api import amount_there
from tests.gateways.test_charging import Till
from tests.gateways.world import settings_for
from tests.runtime.eventually import eventually
from tests.sandbox.conftest import Client
from tests.sandbox_process import ADMIN_TOKEN, SandboxProcess, new_sandbox
from tests.servers import Servers

SECRET = "whsec_test"
PENDING_SECONDS = "0.4"
SEVEN_DAYS_SECONDS = 7 * 86_400 + 60


@dataclass
class Shop(Till):
    """A running payment service that Stripe reaches, and everything that it publishes."""

    url: str
    published: list[Fact]
    client: Client
    host: ServiceRuntime

    async def published_of(self, order_id: UUID, kind: type[Fact]) -> Fact:
        def found() -> list[Fact]:
            return [fact for fact in self.published if fact.order_id == order_id and isinstance(fact, kind)]

        return (await eventually(found, why=kind.__name__))[0]

    async def cancel(self, order_id: UUID) -> None:
        await self.publish(ShipmentCancelled(order_id=order_id, reason="cancelled_by_customer"))

    async def events_taken(self) -> int:
        async with await psycopg.AsyncConnection.connect(self.database_url) as connection:
            found = await connection.execute("SELECT count(*) FROM inbox WHERE wire_name LIKE 'command.%'")
            row = await found.fetchone()
            return int(row[0]) if row else 0

    async def end_refund(self, order_id: UUID, becomes: str) -> int:
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        body = {"reference": str(order_id), "becomes": becomes}
        async with self.client.session.put("/stripe/refunds", json=body, headers=headers) as response:
            return response.status

    async def advance(self, seconds: float) -> None:
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        body = {"ahead_seconds": seconds}
        async with self.client.session.put("/stripe/clock", json=body, headers=headers) as response:
            assert response.status == 204


@asynccontextmanager
async def _nothing(_: object) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def serving(host: ServiceRuntime, listening: socket.socket) -> AsyncIterator[None]:
    app = create_app("payment", "", host.settings, host, list(SERVICE.routers))
    app.router.lifespan_context = _nothing
    server = uvicorn_server(app, host.settings)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def selling(
    servers: Servers, sandbox: SandboxProcess, door: Mapping[str, str] = MappingProxyType({}), **changes: Any
) -> AsyncIterator[Shop]:
    broker_url = await asyncio.to_thread(servers.new_vhost)
    database_url = await servers.new_database("payment_svc")
    await declare([SERVICE], broker_url)
    async with AsyncExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        webhooks = {"SANDBOX_WEBHOOK_URL": f"{url}/webhooks/stripe", "STRIPE_WEBHOOK_SECRET": SECRET}
        given = {"SANDBOX_PENDING_SECONDS": PENDING_SECONDS, **webhooks, **door}
        await asyncio.to_thread(lambda: sandbox.start(**given))
        stack.callback(sandbox.stop)
        settings = settings_for(
            PaymentSettings,
            sandbox,
            broker_url=broker_url,
            database_url=database_url,
            provider="stripe",
            stripe_key="sk_test_1",
            stripe_api=sandbox.url,
            stripe_webhook_secret=SECRET,
            **changes,
        )
        host = ServiceRuntime(SERVICE, settings)
        connection = await stack.enter_async_context(await aio_pika.connect(broker_url))
        channel = await connection.channel()
        exchange = await channel.get_exchange(EXCHANGE, ensure=False)
        published: list[Fact] = []
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(EXCHANGE, "payment.#")

        async def keep(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            published.append(decode(message, message.routing_key or "", 100_000).fact)

        await queue.consume(keep, no_ack=True)
        session = await stack.enter_async_context(ClientSession(sandbox.url))
        await host.start()
        stack.push_async_callback(host.stop)
        await stack.enter_async_context(serving(host, listening))
        yield Shop(exchange, database_url, url, published, Client(session), host)


@pytest.fixture
async def shop(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    # Asked for once in a while only: so that it is the webhooks that are tested.
    async with selling(
        servers, new_sandbox(tmp_path_factory.mktemp("stripe")), pending_backoff_cap_seconds=60.0
    ) as shop:
        yield shop


async def test_an_order_is_charged_and_refunded(shop: Shop) -> None:
    (order,) = await shop.reserve("pm_card_visa")
    await shop.published_of(order, PaymentCaptured)
    await shop.cancel(order)
    refunded = await shop.published_of(order, PaymentRefunded)
    assert isinstance(refunded, PaymentRefunded)
    assert refunded.undone_by == "refund"
    assert await shop.client.ledger_of(str(order)) == ["authorised", "captured", "refunded"]


async def test_every_fault_at_once_charges_everybody_once(
    servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sandbox = new_sandbox(tmp_path_factory.mktemp("faults"))
    brief: dict[str, Any] = {
        "call_attempts": 8,
        "undo_attempts": 8,
        "call_backoff_cap_seconds": 0.2,
        "undo_backoff_cap_seconds": 0.2,
        "call_retry_after_cap_seconds": 0,
    }
    ends = []
    async with selling(servers, sandbox, **brief) as shop:
        rates = {f"{name}_rate": 0.08 for name in ("fail", "lose_answer", "rate_limit", "saved_error")}
        await shop.client.faults(target="provider", seed=7, **rates)
        orders = await shop.reserve(*["pm_card_visa"] * 40)
        for order in orders:
            status = await eventually(lambda order=order: shop.ended(order))  # type: ignore[misc]
            ends.append((str(status), (await shop.client.ledger_of(str(order)))[-1:]))
    # An error that was saved under a key before the work is never taken for a charge, nor for none: it is
    # voided, and where that met one as well, it is for a person.
    allowed = {
        "captured": [["captured"]],
        "declined": [["voided"], []],
        "refund_failed": [["authorised"], []],
    }
    assert [end for end in ends if end[1] not in allowed[end[0]]] == []
    assert len([status for status, _ in ends if status == "captured"]) > len(ends) / 2


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("pm_card_chargeDeclinedInsufficientFunds", "insufficient_funds"),
        ("pm_card_authenticationRequired", "authentication_required"),
        ("pm_card_chargeDeclined", "card_declined"),
        ("pm_nobody", "unknown_payment_method"),
    ],
)
async def test_a_declined_card_is_a_reason(shop: Shop, token: str, reason: str) -> None:
    (order,) = await shop.reserve(token)
    declined = await shop.published_of(order, PaymentDeclined)
    assert isinstance(declined, PaymentDeclined)
    assert declined.reason == reason


async def test_an_authorisation_that_is_processing_ends_by_webhook(shop: Shop) -> None:
    paid, declined = await shop.reserve("pm_sandbox_processing", "pm_sandbox_processingDeclined")
    await shop.published_of(paid, PaymentPending)
    await shop.published_of(paid, PaymentCaptured)
    await shop.published_of(declined, PaymentPending)
    await shop.published_of(declined, PaymentDeclined)
    assert await shop.client.ledger_of(str(paid)) == ["authorised", "captured"]


async def test_a_pending_refund_is_not_published_until_it_is_certain(shop: Shop) -> None:
    good, bad = await shop.reserve("pm_card_pendingRefund", "pm_sandbox_pendingRefundFails")
    for order in (good, bad):
        await shop.published_of(order, PaymentCaptured)
        await shop.cancel(order)
        await shop.published_of(order, PaymentRefundPending)
        refunded = await shop.published_of(order, PaymentRefunded)
        assert isinstance(refunded, PaymentRefunded)
        # One that failed goes on to the next way back.
        assert refunded.undone_by == ("refund" if order is good else "credit_note")
        assert len(await shop.client.ledger_of(str(order))) == 3


async def test_a_refund_is_pending_until_somebody_ends_it(
    servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """For days, if need be, and nobody asks so often that it would be known sooner."""
    sandbox = new_sandbox(tmp_path_factory.mktemp("pending"))
    async with selling(servers, sandbox, door={"SANDBOX_PENDING_SECONDS": "86400"}) as shop:
        orders = await shop.reserve(*["pm_card_pendingRefund"] * 2)
        for order, becomes in zip(orders, ("succeeded", "failed"), strict=True):
            await shop.published_of(order, PaymentCaptured)
            await shop.cancel(order)
            await shop.published_of(order, PaymentRefundPending)
            assert await shop.client.ledger_of(str(order)) == ["authorised", "captured"]
            assert [await shop.end_refund(order, becomes) for _ in range(2)] == [204, 404]
            refunded = await shop.published_of(order, PaymentRefunded)
            assert isinstance(refunded, PaymentRefunded)
            assert refunded.undone_by == ("refund" if becomes == "succeeded" else "credit_note")


async def test_a_refund_that_fails_after_it_was_published_is_a_case_for_a_person(shop: Shop) -> None:
    (order,) = await shop.reserve("pm_card_refundFail")
    await shop.published_of(order, PaymentCaptured)
    await shop.cancel(order)
    await shop.published_of(order, PaymentRefunded)
    failed = await shop.published_of(order, PaymentRefundReversed)
    assert isinstance(failed, PaymentRefundReversed)
    assert failed.reason == "refund: lost_or_stolen_card"
    assert await shop.client.ledger_of(str(order)) == ["authorised", "captured"]


async def test_a_dispute_is_published_once(shop: Shop) -> None:
    (order,) = await shop.reserve("pm_card_createDispute")
    await shop.published_of(order, PaymentDisputed)
    taken = await shop.events_taken()
    assert taken >= 1
    # The second delivery is taken, and nothing comes of it.
    assert [type(fact) for fact in shop.published if fact.order_id == order].count(PaymentDisputed) == 1


async def test_a_hold_that_expired_is_not_captured_and_says_so(
    servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The capture came too late: the provider was away for days, or we were."""
    sandbox = new_sandbox(tmp_path_factory.mktemp("holds"))
    async with selling(servers, sandbox, door={"SANDBOX_HOLD_SECONDS": "0.000001"}) as shop:
        (order,) = await shop.reserve("pm_card_visa")
        declined = await shop.published_of(order, PaymentDeclined)
        assert isinstance(declined, PaymentDeclined)
        assert declined.reason == "authorisation_expired"
        assert await shop.client.ledger_of(str(order)) == ["authorised", "voided"]


async def test_an_order_that_is_parked_for_days_is_authorised_after_its_approval(
    servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """For as long as a person thinks it over nothing is held, so nothing expires."""
    sandbox = new_sandbox(tmp_path_factory.mktemp("parked"))
    async with selling(servers, sandbox, approval_limit_minor={"default": 1}) as shop:
        (order,) = await shop.reserve("pm_card_visa")
        await shop.published_of(order, PaymentHeld)
        await shop.advance(SEVEN_DAYS_SECONDS)
        assert await shop.client.ledger_of(str(order)) == []
        await shop.host.ask(Approve(order_id=order, by="ada", note="a customer of ten years"))
        await shop.published_of(order, PaymentCaptured)
        assert await shop.client.ledger_of(str(order)) == ["authorised", "captured"]


def event(body: bytes, secret: str = SECRET, age_seconds: int = 0) -> dict[str, str]:
    timestamp = int(time.time()) - age_seconds
    signature = stripe.WebhookSignature.generate_signature_header(body.decode(), secret, timestamp)
    return {"Stripe-Signature": signature, "Content-Type": "application/json"}


BODY = b'{"id":"evt_1","type":"refund.failed","data":{"object":{"id":"re_1","object":"refund"}}}'


@pytest.mark.parametrize(
    ("body", "headers_now", "status"),
    [
        (BODY, lambda: event(BODY), 204),
        (BODY, lambda: event(BODY, "whsec_other"), 400),
        (BODY, lambda: {"Content-Type": "application/json"}, 400),
        (BODY, lambda: {"Content-Type": "application/json", "Stripe-Signature": "t=1"}, 400),
        (BODY, lambda: event(BODY, age_seconds=3_600), 400),
        # Signed is the body as it came, and not what it means.
        (BODY.replace(b":", b": "), lambda: event(BODY), 400),
        (b"{}", lambda: event(b"{}"), 400),
        (b"[", lambda: event(b"["), 400),
    ],
)
async def test_only_what_stripe_signed_lately_is_taken(
    shop: Shop, body: bytes, headers_now: Callable[[], dict[str, str]], status: int
) -> None:
    # Signed when the test runs, as a signature gets old.
    url, headers = f"{shop.url}/webhooks/stripe", headers_now()
    async with shop.client.session.post(url, data=body, headers=headers) as answer:
        assert answer.status == status


@pytest.mark.parametrize(
    ("amount_minor", "currency", "there"),
    [
        (1250, "EUR", 1250),
        (7, "JPY", 7),
        (7, "ISK", 700),
        (7, "UGX", 700),
        (300, "MGA", 3),
        (301, "MGA", None),
        (1230, "KWD", 1230),
        (1234, "KWD", None),
    ],
)
def test_stripe_counts_some_currencies_in_units_of_its_own(
    amount_minor: int, currency: str, there: int | None
) -> None:
    assert amount_there(amount_minor, currency) == there
