"""Fills every service's database, and the tracker's, with orders that ended long ago, or that are open.

A few dozen real orders are played, of every kind of end, and copied by SQL, again and again: each row that
they left, under ids and at times of its own. So the rows are what real ones are, whatever the tables become,
and agree with each other across all databases.

Not filled: the sandbox's ledger (the provider and the carrier know nothing of copied orders, as `make check`
will say), the stream of facts (a rebuild of the tracker keeps them), outboxes and calls, which hold
nothing of orders that ended. The facts of a copy have the stream offsets of the original.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
from aiohttp import ClientSession
from psycopg import sql

from compose.local.rig import LocalRig
from compose.rig import Whereabouts
from payment_svc.service import DEFAULT_APPROVAL_LIMIT_MINOR
from tests.bench.completions import watch
from tests.bench.load import stock_up
from tests.bench.orders import SKU

TRACKER = "tracker"
# What each order leaves, beside the inboxes. The tracker's, which takes longest, first.
TABLES = {
    TRACKER: ("saga_facts", "sagas"),
    "order": ("orders",),
    "inventory": ("reservations",),
    "payment": ("payments",),
    "fulfillment": ("shipments",),
    "notification": ("notices",),
}
# Of 50 orders that are copied: 44 completed, 3 whose card is declined, 2 that nobody delivers, 1 of no stock.
KINDS = (
    *[("cust_ada", "tok_ok", SKU)] * 44,
    *[("cust_ada", "tok_declined", SKU)] * 3,
    *[("cust_refused", "tok_ok", SKU)] * 2,
    ("cust_ada", "tok_ok", "unheard-of"),
)
SPREAD_OVER_DAYS = 20
AT_ONCE = 2
SETTLE_SECONDS = 30.0
POLL_SECONDS = 0.1

Connection = psycopg.AsyncConnection[Any]

# As random as the ids that services derive, and the same in every database.
_COPIED = """
    CREATE FUNCTION pg_temp.copied(id uuid, number integer) RETURNS uuid IMMUTABLE LANGUAGE sql RETURN
        md5(uuid_send(id) || int4send(number))::uuid
"""
_COLUMNS = """
    SELECT column_name, data_type FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name = %s AND is_generated = 'NEVER' AND is_identity = 'NO'
    ORDER BY ordinal_position
"""
# How to drop each index of a table, and how to make it again.
_INDEXES = """
    SELECT
        CASE WHEN own.oid IS NULL THEN format('DROP INDEX %%s', indexrelid::regclass)
            ELSE format('ALTER TABLE %%s DROP CONSTRAINT %%I', indrelid::regclass, own.conname) END,
        CASE WHEN own.oid IS NULL THEN pg_get_indexdef(indexrelid)
            ELSE format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', indrelid::regclass, own.conname,
                pg_get_constraintdef(own.oid)) END
    FROM pg_index LEFT JOIN pg_constraint AS own ON own.conindid = indexrelid
    WHERE indrelid = %s::regclass
"""
# The tracker counts a cancelled order as ended before its customer is told.
_ENDED = """
    SELECT count(*) FROM sagas WHERE order_id = ANY(%(order_ids)s) AND ended_at IS NOT NULL AND waits = '[]'
        AND EXISTS (SELECT FROM saga_facts WHERE saga_facts.order_id = sagas.order_id
            AND stated_by = 'notification')
"""


# Open ones came in over the last hour.
OPEN_OVER_DAYS = 1 / 24
OPEN_ORIGINALS = 25
_STANDS = "SELECT count(*) FROM sagas WHERE order_id = ANY(%(order_ids)s) AND state = %(state)s"


@dataclass(frozen=True, slots=True)
class Copied:
    """So many open orders were made in so many seconds. One that waits for a person, one for fulfilment."""

    orders: int
    seconds: float
    parked: UUID
    waiting: UUID


@dataclass(frozen=True, slots=True)
class Filled:
    """What was done: so many orders, so long ago at most, in so many seconds."""

    orders: int
    days: float
    seconds: float


async def fill(where: Whereabouts, orders: int = 1_000_000, days: float = SPREAD_OVER_DAYS) -> Filled:
    """Have so many orders more (up to the next 50) in all databases, which ended over the last `days`.

    The system is running, and goes on running.
    """
    began = time.monotonic()
    copies = -(-orders // len(KINDS))
    originals = await _play(where)
    facts = await _facts_of(where, originals)
    turn = asyncio.Semaphore(AT_ONCE)

    async def fill_one(name: str) -> None:
        async with turn, await psycopg.AsyncConnection.connect(where.database_url(name)) as connection:
            await _copy(connection, name, {"order_id": originals, "fact_id": facts}, copies, days)

    async with asyncio.TaskGroup() as group:
        for name in TABLES:
            group.create_task(fill_one(name))
    return Filled(copies * len(KINDS), days, time.monotonic() - began)


async def open_orders(rig: LocalRig, orders: int) -> Copied:
    """Have so many open orders more: half of them wait for a person's approval, half for fulfilment.

    Nothing is under way for the copies, so they stay; what is left of the stock does not know of them.
    """
    began, where = time.monotonic(), rig.addresses
    copies = orders // (2 * OPEN_ORIGINALS)
    await stock_up(where.http("inventory"), where.admin_token)
    await asyncio.to_thread(rig.stop, "fulfillment")
    async with ClientSession() as session:
        url = where.http("order")
        kind = ("cust_open", "tok_ok", SKU)
        parked = [
            await _place(session, url, *kind, amount_minor=DEFAULT_APPROVAL_LIMIT_MINOR + 1)
            for _ in range(OPEN_ORIGINALS)
        ]
        waiting = [await _place(session, url, *kind) for _ in range(OPEN_ORIGINALS)]
    await _stand(where, parked, "AWAITING_APPROVAL")
    await _stand(where, waiting, "PENDING_SHIPMENT")
    originals = [*parked, *waiting]
    facts = await _facts_of(where, originals)
    for name in TABLES:
        async with await psycopg.AsyncConnection.connect(where.database_url(name)) as connection:
            ids = {"order_id": originals, "fact_id": facts}
            await _copy(connection, name, ids, copies, OPEN_OVER_DAYS)
    examples = await _first_copies(where, [parked[0], waiting[0]])
    await asyncio.to_thread(rig.start, "fulfillment")
    return Copied(copies * 2 * OPEN_ORIGINALS, time.monotonic() - began, *examples)


async def _stand(where: Whereabouts, order_ids: list[UUID], state: str) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    url = where.database_url(TRACKER)
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        given = {"order_ids": order_ids, "state": state}
        while await _number(connection, _STANDS, given) < len(order_ids):
            assert time.monotonic() < deadline, f"not all of the orders to be copied are {state}"
            await asyncio.sleep(POLL_SECONDS)


async def _first_copies(where: Whereabouts, order_ids: list[UUID]) -> tuple[UUID, UUID]:
    async with await psycopg.AsyncConnection.connect(where.database_url(TRACKER)) as connection:
        await connection.execute(_COPIED)
        cursor = await connection.execute(
            "SELECT pg_temp.copied(id, 1) FROM unnest(%s::uuid[]) AS id", [order_ids]
        )
        first, second = [row[0] for row in await cursor.fetchall()]
    return first, second


async def _play(where: Whereabouts) -> list[UUID]:
    """Place one order of each kind, and wait until the tracker has seen all of them end."""
    await stock_up(where.http("inventory"), where.admin_token)
    async with watch(where.broker_url("admin")) as completions, ClientSession() as session:
        order_ids = [await _place(session, where.http("order"), *kind) for kind in KINDS]
        missing = await completions.wait_for(set(map(str, order_ids)), SETTLE_SECONDS)
    assert not missing, f"{len(missing)} orders that were to be copied did not end"
    deadline = time.monotonic() + SETTLE_SECONDS
    async with await psycopg.AsyncConnection.connect(
        where.database_url(TRACKER), autocommit=True
    ) as connection:
        while await _number(connection, _ENDED, {"order_ids": order_ids}) < len(order_ids):
            assert time.monotonic() < deadline, "the tracker has not seen the orders end that are copied"
            await asyncio.sleep(POLL_SECONDS)
    return order_ids


async def _place(
    session: ClientSession, order_url: str, customer: str, token: str, sku: str, amount_minor: int = 1_999
) -> UUID:
    lines = [{"sku": sku, "quantity": 1, "amount_minor": amount_minor}]
    order = {"customer": customer, "currency": "EUR", "payment_token": token, "lines": lines}
    headers = {"Idempotency-Key": str(uuid4())}
    async with session.post(f"{order_url}/orders", json=order, headers=headers) as response:
        response.raise_for_status()
        return UUID((await response.json())["order_id"])


async def _facts_of(where: Whereabouts, order_ids: Sequence[UUID]) -> list[UUID]:
    async with await psycopg.AsyncConnection.connect(where.database_url(TRACKER)) as connection:
        query = "SELECT fact_id FROM saga_facts WHERE order_id = ANY(%s)"
        return [row[0] async for row in await connection.execute(query, [order_ids])]


async def _copy(
    connection: Connection, name: str, originals: Mapping[str, list[UUID]], copies: int, days: float
) -> None:
    """Copy what one database has of the originals; leave it as a quiet hour would."""
    await connection.set_autocommit(True)
    await connection.execute("SET synchronous_commit = off")
    await connection.execute("SET maintenance_work_mem = '256MB'")
    await connection.execute(_COPIED)
    tables = [(table, "order_id") for table in TABLES[name]]
    if name != TRACKER:
        tables.append(("inbox", "fact_id"))
    for table, key in tables:
        statement = await _statement(connection, table, key)
        given = {"ids": originals[key], "copies": copies, "days": days}
        async with connection.transaction(), _without_indexes(connection, table):
            await connection.execute(statement, given)
    if name == "inventory":
        await _sell(connection, originals["order_id"], copies)
    await connection.execute("VACUUM ANALYZE")


@asynccontextmanager
async def _without_indexes(connection: Connection, table: str) -> AsyncIterator[None]:
    """Making them anew takes a fifth of the time of keeping them. Whoever else uses the table waits."""
    indexes = await (await connection.execute(_INDEXES, [table])).fetchall()
    for drop, _ in indexes:
        await connection.execute(drop)
    yield
    for _, make in indexes:
        await connection.execute(make)


async def _statement(connection: Connection, table: str, key: LiteralString) -> sql.Composed:
    """Copies the rows of the originals: number 1 is `days` old, the last one as old as they are."""
    found = await (await connection.execute(_COLUMNS, [table])).fetchall()
    columns = [sql.Identifier(column) for column, _ in found]
    values = [_value(sql.Identifier(column), kind) for column, kind in found]
    return sql.SQL(
        "INSERT INTO {table} ({columns}) SELECT {values}"
        " FROM generate_series(1, %(copies)s::integer) AS number,"
        " LATERAL (SELECT make_interval(secs => 86400.0 * %(days)s * (1 - number / %(copies)s::float8)))"
        " AS shift(ago),"
        " LATERAL (SELECT * FROM {table} WHERE {key} = ANY(%(ids)s) AND number > 0) AS original"
    ).format(
        table=sql.Identifier(table),
        columns=sql.SQL(", ").join(columns),
        values=sql.SQL(", ").join(values),
        key=sql.Identifier(key),
    )


def _value(column: sql.Identifier, kind: str) -> sql.Composable:
    """What a copy has in a column: ids and times of its own, also within JSON; else what the original has."""
    match kind:
        case "uuid":
            return sql.SQL("pg_temp.copied(original.{}, number)").format(column)
        case "timestamp with time zone":
            return sql.SQL("original.{} - ago").format(column)
        case "jsonb":
            return sql.SQL(
                "CASE WHEN jsonb_exists(original.{0}, 'order_id') THEN original.{0} || jsonb_build_object("
                "'order_id', pg_temp.copied((original.{0} ->> 'order_id')::uuid, number))"
                " ELSE original.{0} END"
            ).format(column)
        case _:
            return sql.SQL("original.{}").format(column)


async def _sell(connection: Connection, order_ids: Sequence[UUID], copies: int) -> None:
    """Enter what the copies took from the stock."""
    await connection.execute(
        """
        UPDATE stock SET sold = sold + more.units, stocked = stocked + more.units
        FROM (
            SELECT unit.key AS sku, %(copies)s * sum(unit.value::bigint)::bigint AS units
            FROM reservations, jsonb_each_text(units) AS unit
            WHERE order_id = ANY(%(order_ids)s) AND status = 'sold' GROUP BY unit.key) AS more
        WHERE stock.sku = more.sku
        """,
        {"order_ids": order_ids, "copies": copies},
    )


async def _number(connection: Connection, query: LiteralString, given: Mapping[str, object]) -> int:
    row = await (await connection.execute(query, given)).fetchone()
    assert row is not None
    return int(row[0])
