"""What a service knows of an order is read as it was written, also by the version before."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, LiteralString

import pytest
from alembic import command
from psycopg.rows import dict_row

from events.storage.database import Session
from events.storage.migrations import alembic_config, upgrade
from events.storage.repository import OrderRepository
from events.storage.round_trip import RoundTrip
from fulfillment_svc.repository import SHIPMENTS
from fulfillment_svc.shipment import Shipment
from notification_svc.decide import Notice
from notification_svc.repository import NOTICES
from payment_svc.payment import Payment
from payment_svc.repository import PAYMENTS
from tests.decide.given import CUSTOMER, DELIVER_ON, LINES, ORDER, PERSON, SHIPMENT, TOKEN
from tests.servers import Servers

PAYMENT = Payment(
    ORDER,
    "refund_failed",
    amount_minor=500,
    currency="EUR",
    customer=CUSTOMER,
    payment_token=TOKEN,
    lines=LINES,
    withdrawn=True,
    reason="timed_out",
)
PARCEL = Shipment(
    ORDER, "dispatch_failed", customer=CUSTOMER, lines=LINES, shipment_id=SHIPMENT, deliver_on=DELIVER_ON
)
NOTICE = Notice(ORDER, "failed", "cancelled", "undeliverable", "undeliverable", "email: bounced")

KEPT = [
    (
        "payment_svc",
        PAYMENTS,
        replace(PAYMENT, retry_with="issue_credit_note", round=3, settled_by=PERSON, decided_by=PERSON),
    ),
    ("fulfillment_svc", SHIPMENTS, replace(PARCEL, round=2, settled_by=PERSON)),
    (
        "notification_svc",
        NOTICES,
        replace(
            NOTICE,
            customer=CUSTOMER,
            cancelled_because="timed_out",
            email_round=2,
            push_round=3,
            settled_by=PERSON,
        ),
    ),
]

LINES_AS_JSON = "[" + ", ".join(line.model_dump_json() for line in LINES) + "]"
ROWS_OF_0001: list[tuple[str, OrderRepository[Any], Any, LiteralString, list[Any]]] = [
    (
        "payment_svc",
        PAYMENTS,
        PAYMENT,
        "INSERT INTO payments VALUES (%s, 'refund_failed', 500, 'EUR', %s, %s, %s, true, 'timed_out')",
        [ORDER, CUSTOMER, TOKEN, LINES_AS_JSON],
    ),
    (
        "fulfillment_svc",
        SHIPMENTS,
        PARCEL,
        "INSERT INTO shipments VALUES (%s, 'dispatch_failed', %s, %s, %s, %s, false, NULL)",
        [ORDER, CUSTOMER, LINES_AS_JSON, SHIPMENT, DELIVER_ON],
    ),
    (
        "notification_svc",
        NOTICES,
        NOTICE,
        "INSERT INTO notices VALUES (%s, 'failed', 'cancelled', %s, %s, 'email: bounced')",
        [ORDER, "undeliverable", "undeliverable"],
    ),
]


@asynccontextmanager
async def connected(database_url: str) -> AsyncIterator[Session]:
    async with await Session.connect(database_url, row_factory=dict_row) as connection:
        yield connection


@pytest.mark.parametrize(("package", "repository", "state"), KEPT, ids=[package for package, *_ in KEPT])
async def test_it_is_read_as_it_was_written(
    servers: Servers, package: str, repository: OrderRepository[Any], state: Any
) -> None:
    async with connected(await servers.new_database(package)) as connection:
        trip = RoundTrip(connection)
        repository.insert(trip, [replace(state, round=1)] if hasattr(state, "round") else [state])
        repository.update(trip, [state])
        await trip.run()
        assert await repository.read(connection, ORDER) == state


@pytest.mark.parametrize(
    ("package", "repository", "state", "insert", "row"),
    ROWS_OF_0001,
    ids=[package for package, *_ in ROWS_OF_0001],
)
async def test_a_failure_from_before_there_were_retries_begins_with_the_first(
    servers: Servers,
    package: str,
    repository: OrderRepository[Any],
    state: Any,
    insert: LiteralString,
    row: list[Any],
) -> None:
    url = await servers.new_database()
    first = f"{package.removesuffix('_svc')}_0001"
    await asyncio.to_thread(command.upgrade, alembic_config(url, package), first)
    async with connected(url) as connection:
        await connection.execute(insert, row)
    await asyncio.to_thread(upgrade, url, package)
    async with connected(url) as connection:
        assert await repository.read(connection, ORDER) == state
