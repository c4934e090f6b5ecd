"""Payment as it runs, with a provider that is slow, away, or loses its answers: one charge, or none."""

import asyncio
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import aio_pika
import psycopg
import pytest
from aiohttp import ClientSession
from structlog.testing import capture_logs

from events.facts import Fact
from events.facts.base import Line
from events.facts.inventory import StockReserved
from events.messaging.envelope import Envelope, encode
from payment_svc.service import SERVICE, PaymentSettings
from tests.gateways.world import running
from tests.runtime.eventually import eventually
from tests.sandbox.conftest import Client
from tests.sandbox_process import SandboxProcess, new_sandbox
from tests.servers import Servers

CAPTURED = ("captured", ["authorised", "captured"])
PATIENT: dict[str, Any] = {"call_attempts": 60, "call_backoff_seconds": 0.1, "call_backoff_cap_seconds": 0.5}


@dataclass
class Till:
    """A running payment service, whoever publishes to it, and its database."""

    exchange: aio_pika.abc.AbstractExchange
    database_url: str

    async def reserve(self, *tokens: str) -> list[UUID]:
        """Tell it that the stock of so many orders is reserved."""
        orders = [uuid4() for _ in tokens]
        for order, token in zip(orders, tokens, strict=True):
            fact = StockReserved(
                order_id=order,
                customer="cust_1",
                currency="EUR",
                payment_token=token,
                lines=(Line(sku="kettle", quantity=1, amount_minor=1250),),
                amount_minor=1250,
            )
            await self.publish(fact)
        return orders

    async def publish(self, fact: Fact) -> None:
        """As the service would whose fact it is."""
        message = encode(Envelope(uuid4(), fact, fact.owner, datetime.now(UTC)))
        await self.exchange.publish(message, fact.wire_name)

    async def ended(self, order_id: UUID) -> str | None:
        """How the order's payment ended, if it did."""
        async with await psycopg.AsyncConnection.connect(self.database_url) as connection:
            found = await connection.execute(
                "SELECT status FROM payments WHERE order_id = %s"
                " AND status NOT LIKE '%%ing' AND NOT EXISTS (SELECT FROM calls)",
                [order_id],
            )
            row = await found.fetchone()
            return row[0] if row else None


@asynccontextmanager
async def paying(servers: Servers, sandbox: SandboxProcess, **changes: Any) -> AsyncIterator[Till]:
    async with running(SERVICE, PaymentSettings, servers, sandbox, **changes) as known:
        yield Till(*known)


@pytest.fixture
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    with capture_logs() as lines:
        yield lines


async def test_answers_that_are_lost_late_or_wrong(
    servers: Servers, sandbox: SandboxProcess, client: Client
) -> None:
    expected = {
        "tok_ok": CAPTURED,
        "tok_lost": CAPTURED,
        # It answers long after the time a call may take.
        "tok_slow": CAPTURED,
        "tok_flaky": CAPTURED,
        "tok_declined": ("declined", []),
        # Nobody knows of the last attempt whether it was done: what may have been authorised is voided.
        "tok_fails": ("declined", []),
    }
    async with paying(servers, sandbox, call_attempts=4, call_backoff_cap_seconds=0.5) as till:
        orders = dict(zip(expected, await till.reserve(*expected), strict=True))
        for token, order in orders.items():
            status = await eventually(lambda order=order: till.ended(order), why=token)  # type: ignore[misc]
            ledger = [kind for kind in await client.ledger_of(str(order)) if kind != "voided"]
            assert (status, ledger) == expected[token], token


async def test_a_provider_that_loses_all_its_answers_charges_everybody_once(
    servers: Servers, sandbox: SandboxProcess, client: Client
) -> None:
    # Lost answers open the circuit too, and while it is open attempts come to nothing.
    async with paying(servers, sandbox, **PATIENT, circuit_open_seconds=0.4) as till:
        await client.faults(target="provider", lose_answer_rate=1)
        orders = await till.reserve(*["tok_ok"] * 20)
        for order in orders:
            status = await eventually(lambda order=order: till.ended(order))  # type: ignore[misc]
            assert (status, await client.ledger_of(str(order))) == CAPTURED


async def test_a_provider_that_is_away_is_left_alone_and_charges_once_when_it_is_back(
    servers: Servers, tmp_path_factory: pytest.TempPathFactory, logged: list[MutableMapping[str, Any]]
) -> None:
    sandbox = new_sandbox(tmp_path_factory.mktemp("away"))
    async with paying(servers, sandbox, **PATIENT, circuit_open_seconds=0.4) as till:
        orders = await till.reserve(*["tok_ok"] * 30)
        await eventually(lambda: "provider_circuit_open" in [line.get("why") for line in logged])
        await asyncio.to_thread(sandbox.start)
        try:
            async with client_of(sandbox) as client:
                for order in orders:
                    status = await eventually(lambda order=order: till.ended(order))  # type: ignore[misc]
                    assert (status, await client.ledger_of(str(order))) == CAPTURED
        finally:
            await asyncio.to_thread(sandbox.stop)
    events = [line["event"] for line in logged if line["event"].startswith("circuit_")]
    assert events == ["circuit_opened", "circuit_closed"]


@asynccontextmanager
async def client_of(sandbox: SandboxProcess) -> AsyncIterator[Client]:
    async with ClientSession(sandbox.url) as session:
        yield Client(session)
