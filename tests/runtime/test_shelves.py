"""What inventory locks for a batch: the SKUs that it concerns, found without reading all the others."""

from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from events.facts.base import Line
from events.facts.order import OrderConfirmed, OrderCreated
from events.runtime.input import Input
from events.runtime.settings import ProcessSettings
from events.storage.database import Connection, Database, Session
from events.storage.round_trip import BEGIN, RoundTrip
from inventory_svc import repository
from inventory_svc.decide import decide
from tests.servers import Servers

SKUS = 20_000
_STOCKED = (
    b"INSERT INTO stock (sku, available, stocked) SELECT 'sku-' || i, 10, 10 FROM generate_series(1, %s) i"
)


@pytest.fixture
async def database(servers: Servers) -> AsyncIterator[Database]:
    """With a stock of 10 units of each of many SKUs."""
    url = await servers.new_database("inventory_svc")
    database = Database(ProcessSettings(broker_url="", database_url=url, http_port=0), "shelves")
    await database.open()
    try:
        async with database.transaction() as connection:
            await connection.execute(_STOCKED, [SKUS])
        yield database
    finally:
        await database.close()


def created(*lines: tuple[int, int]) -> Input:
    """An order of so many units of SKUs given by their number."""
    wanted = tuple(Line(sku=f"sku-{number}", quantity=units, amount_minor=1) for number, units in lines)
    order = OrderCreated(
        order_id=uuid4(), customer="ada", currency="EUR", payment_token="tok_ok", lines=wanted
    )
    return Input("fact", order.order_id, order, uuid4(), None)


def confirmed(order_id: UUID) -> Input:
    fact = OrderConfirmed(order_id=order_id, customer="ada", amount_minor=1, currency="EUR")
    return Input("fact", order_id, fact, uuid4(), None)


async def play(connection: Session, *batch: Input) -> list[str]:
    """Decide a batch and save it; answers what became of each order."""
    opening, closing = RoundTrip(connection), RoundTrip(connection)
    opening.add(BEGIN)
    unit_of_work = repository.SHELVES.load(opening, batch)
    await opening.run()
    for item in batch:
        unit_of_work.keep(item, decide(unit_of_work.state_of(item), item.payload).state)
    unit_of_work.save(closing)
    await closing.run()
    reservations = [unit_of_work.state_of(item).reservation for item in batch]
    return [reservation.status for reservation in reservations if reservation is not None]


async def in_stock(connection: Connection, number: int) -> tuple[int, int, int]:
    cursor = await connection.execute(
        "SELECT available, reserved, sold FROM stock WHERE sku = %s", [f"sku-{number}"]
    )
    [row] = await cursor.fetchall()
    return row["available"], row["reserved"], row["sold"]


async def test_orders_of_one_batch_see_what_those_before_them_took(database: Database) -> None:
    async with database.transaction() as connection:
        batch = created((1, 6), (2, 1)), created((1, 6)), created((2, 9), (3, 1)), created((1, 4))
        assert await play(connection, *batch) == ["reserved", "rejected", "reserved", "reserved"]
        assert [await in_stock(connection, number) for number in (1, 2, 3)] == [
            (0, 10, 0),
            (0, 10, 0),
            (9, 1, 0),
        ]


async def test_a_fact_that_names_no_sku_moves_what_its_order_reserved(database: Database) -> None:
    async with database.transaction() as connection:
        order, other = created((1, 2), (2, 3)), created((1, 1))
        await play(connection, order, other)
        assert await play(connection, confirmed(order.order_id), created((1, 7))) == ["sold", "reserved"]
        assert await in_stock(connection, 1) == (0, 8, 2)
        assert await in_stock(connection, 2) == (7, 0, 3)


async def test_no_batch_reads_every_sku(database: Database) -> None:
    """Not even the first ones after many were stocked, when PostgreSQL knows nothing of the table yet."""
    parameters = {"skus": [f"sku-{number}" for number in range(200)], "order_ids": [uuid4()] * 200}
    explained = replace(
        repository._LOCK_STOCK, name=b"explained", text=b"EXPLAIN " + repository._LOCK_STOCK.text
    )
    async with database.transaction() as connection:
        trip = RoundTrip(connection)
        answer = trip.add(explained, **parameters)
        await trip.run()
        plan = "\n".join(line for (line,) in answer.rows)
    assert "stock_pkey" in plan
    assert "Seq Scan on stock" not in plan
