"""Whatever fails, nothing private is written anywhere: canaries are planted, and everything is read."""

import json
import re
import threading
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, LiteralString
from uuid import UUID, uuid4

import aio_pika
import aiohttp
import pytest
import stripe
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from compose.demo.shop import Item, Refused
from compose.local.rig import LocalRig
from events.service import EXCHANGE
from tests.system.conftest import rig_of_its_own
from tests.system.stage import System, until
from tests.system.test_logs import everything_logged

CUSTOMER, PAYMENT_TOKEN = f"cust_canary{uuid4().hex}", f"tok_canary{uuid4().hex}"
# Nothing else comes to so much.
AMOUNT_MINOR = 7_310_935
BEARER = f"canary-bearer-{uuid4().hex}"
USER_INFO = f"canary-user-{uuid4().hex}"
# What only Stripe's webhooks have in them.
WEBHOOK_CONTENT = f"canary-webhook-{uuid4().hex}"
# Where orders, payments and what is on its way are kept, which is what these tables are for.
KEPT: dict[str, tuple[str, ...]] = {
    "order": ("orders", "outbox"),
    "inventory": ("reservations", "outbox"),
    "payment": ("payments", "outbox", "calls"),
    "fulfillment": ("shipments", "outbox", "calls"),
    "notification": ("notices", "outbox", "calls"),
    # The trail of an order, and messages that are to be replayed as they are.
    "tracker": ("sagas", "saga_facts", "outbox"),
}
BODIES = {"body", "properties", "request"}
_TEXTS: LiteralString = """
    SELECT table_name, column_name FROM information_schema.columns
    WHERE table_schema = 'public' AND data_type IN ('text', 'character varying', 'jsonb', 'json', 'ARRAY')
"""


class Collector:
    """Takes spans over HTTP as OpenTelemetry's collector does, and keeps them in words."""

    def __init__(self) -> None:
        self._received: list[bytes] = []
        received = self._received

        class Taking(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                """The name is what http.server asks for."""
                received.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - its name in http.server
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def spans(self) -> str:
        return "\n".join(str(ExportTraceServiceRequest.FromString(body)) for body in list(self._received))


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def rig(collector: Collector) -> Iterator[LocalRig]:
    """A system of its own, on servers of its own, that exports every span."""
    traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    with rig_of_its_own(traced) as rig:
        yield rig


async def texts_in(system: System, database: str) -> str:
    """Every text in every table that says why something is so."""
    found: list[Any] = []
    for row in await system.execute(database, _TEXTS):
        table, column = row
        if column in BODIES or (table in KEPT[database] and column not in ("last_error", "reason")):
            continue
        found += await system.execute(database, f'SELECT "{column}"::text AS said FROM "{table}"')
    return "\n".join(str(value) for (value,) in found)


async def publish_nonsense(system: System) -> None:
    """A message whose body is wrong in every field that is private."""
    body = {
        "order_id": str(uuid4()),
        "customer": {"name": CUSTOMER},
        "payment_token": f"{PAYMENT_TOKEN} and more",
        "currency": "EUR",
        "lines": [{"sku": "apple", "quantity": 1, "amount_minor": str(AMOUNT_MINOR)}],
    }
    name = "order.created.v2"
    message = aio_pika.Message(json.dumps(body).encode(), message_id=str(uuid4()), type=name)
    async with system.channel_as("publisher") as channel:
        facts = await channel.get_exchange(EXCHANGE, ensure=False)
        await facts.publish(message, name)


@pytest.fixture
async def forbidden(system: System) -> list[str]:
    """Every service's money has a constraint that the amount violates, and says so with the whole row."""
    added = {"order": "orders", "payment": "payments"}
    for database, table in added.items():
        await system.execute(
            database,
            f"ALTER TABLE {table} ADD CONSTRAINT canary CHECK (amount_minor <> {AMOUNT_MINOR})",
        )
    return list(added)


async def provoke(system: System, rig: LocalRig) -> None:
    """Everything that fails with a canary in it."""
    sku = await system.new_sku(10)
    # One that the order service's own table refuses, and one that only payment's does.
    with pytest.raises(Refused):
        await system.shop.place(CUSTOMER, PAYMENT_TOKEN, Item(sku, 1, AMOUNT_MINOR))
    await system.execute("order", "ALTER TABLE orders DROP CONSTRAINT canary")
    poisoned = await system.shop.place(CUSTOMER, PAYMENT_TOKEN, Item(sku, 1, AMOUNT_MINOR))

    async def given_up() -> bool:
        saga = await system.shop.saga(poisoned)
        return saga is not None and saga["state"] == "CANCELLED"

    await until(given_up, "it is late", within_seconds=90)
    await publish_nonsense(system)
    # A body that is wrong, a token that is nobody's, and a provider that is away, whose URL has a password.
    body = {"customer": CUSTOMER, "payment_token": PAYMENT_TOKEN, "amount_minor": AMOUNT_MINOR, "by": BEARER}
    url = rig.addresses.http("order")
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {BEARER}"}) as session:
        for path in ("/orders", f"/orders/{poisoned}/cancel"):
            async with session.post(url + path, json=body) as answer:
                assert answer.status in (401, 422)
    away = f"http://{USER_INFO}:{USER_INFO}@127.0.0.1:1/provider"
    await system.stop("payment")
    await system.execute("payment", "ALTER TABLE payments DROP CONSTRAINT canary")
    await system.start("payment", extra_environment={"MURMURATION_PROVIDER_URL": away})
    await system.shop.place(CUSTOMER, PAYMENT_TOKEN, Item(sku, 1, 700))

    async def not_read() -> bool:
        kept = await system.execute("tracker", "SELECT 1 FROM unreadable_messages WHERE reason = 'bad_body'")
        return bool(kept)

    await until(not_read)

    async def tried() -> bool:
        calls = await system.execute("payment", "SELECT last_error FROM calls")
        return any(value for (value,) in calls)

    try:
        await until(tried, "the provider is asked in vain")
    finally:
        await system.stop("payment")
        await system.start("payment")


def event_about(payment_intent: str) -> bytes:
    """As Stripe's are: what is in it besides the ids is nobody's business."""
    thing = {
        "id": "re_1",
        "object": "refund",
        "payment_intent": payment_intent,
        "destination_details": {"card": {"reference": WEBHOOK_CONTENT}},
        "metadata": {"note": WEBHOOK_CONTENT},
    }
    event = {"id": f"evt_{uuid4().hex}", "type": "charge.dispute.created", "data": {"object": thing}}
    return json.dumps(event | {"account": WEBHOOK_CONTENT}).encode()


async def provoke_with_stripe(system: System, rig: LocalRig) -> None:
    """An order charged by Stripe; events of it that are taken and that are not; and a Stripe that is away."""
    chosen = {"MURMURATION_PROVIDER": "stripe"}
    await system.stop("payment")
    await system.start("payment", extra_environment=chosen)
    item = Item(await system.new_sku(10), 1, 700)
    order = await system.shop.place("cust_ada", "pm_card_visa", item)

    async def intent_of(order_id: UUID) -> str | None:
        query = "SELECT provider_payment FROM payments WHERE order_id = %s AND status = 'captured'"
        rows = await system.execute("payment", query, [order_id])
        return rows[0][0] if rows else None

    intent = await until(lambda: intent_of(order), "it is charged")
    assert intent
    secret = f"whsec_{rig.addresses.state.secret('stripe-webhooks')}"
    sent = {204: event_about(intent), 400: event_about(intent)[:-1]}
    url = f"{rig.addresses.http('payment')}/webhooks/stripe"
    async with aiohttp.ClientSession() as session:
        for status, body in sent.items():
            signature = stripe.WebhookSignature.generate_signature_header(body.decode(), secret)
            headers = {"Stripe-Signature": signature, "Content-Type": "application/json"}
            async with session.post(url, data=body, headers=headers) as answer:
                assert answer.status == status
        forged = {"Stripe-Signature": f"t=1,v1={WEBHOOK_CONTENT}", "Content-Type": "application/json"}
        async with session.post(url, data=sent[204], headers=forged) as answer:
            assert answer.status == 400
    away = chosen | {"MURMURATION_STRIPE_API": "http://127.0.0.1:1"}
    await system.stop("payment")
    await system.start("payment", extra_environment=away)
    await system.shop.place("cust_ada", "pm_card_visa", item)

    async def tried() -> bool:
        calls = await system.execute("payment", "SELECT last_error FROM calls WHERE name = 'register'")
        return any(value for (value,) in calls)

    try:
        await until(tried, "Stripe is asked in vain")
    finally:
        await system.stop("payment")
        await system.start("payment")


async def test_no_canary_is_written_anywhere(
    system: System, rig: LocalRig, forbidden: list[str], collector: Collector
) -> None:
    await provoke(system, rig)
    await provoke_with_stripe(system, rig)

    async def exported() -> bool:
        # What failed in vain, of the service that is stopped, too.
        return "provider_unreachable" in collector.spans and "stripe_unreachable" in collector.spans

    await until(exported, "spans arrive")
    secrets = [*rig.addresses.database_passwords.values(), *rig.addresses.broker_passwords.values()]
    canaries = [
        CUSTOMER,
        PAYMENT_TOKEN,
        str(AMOUNT_MINOR),
        f"{Decimal(AMOUNT_MINOR) / 100}",
        BEARER,
        USER_INFO,
    ]
    canaries += [rig.addresses.admin_token, rig.addresses.token, *secrets, WEBHOOK_CONTENT]
    canaries += [rig.addresses.state.secret(name) for name in ("stripe", "stripe-webhooks")]
    postgres_log = (rig.state_dir / "logs" / "postgres.log").read_text(errors="replace")
    assert 'violates check constraint "canary"' in postgres_log
    written = {"the logs": everything_logged(rig), "the spans": collector.spans}
    for database in KEPT:
        written[database] = await texts_in(system, database)
    assert "canary" in written["the logs"], "that the constraint was violated is told"
    found = [
        (where, re.sub(r"\s+", " ", text[max(0, at - 150) : at + 60]))
        for where, text in written.items()
        for canary in canaries
        for at in [text.find(canary)]
        if at >= 0
    ]
    assert not found, found
