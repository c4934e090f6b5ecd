"""Forgets, now and then, which facts were received long ago. Otherwise the inbox would grow for ever.

The same for tombstones, which are small: for as long as anybody may replay an order, they keep it from
beginning again, so they go only if a number of days is set.

A fact whose row is gone is received as if it were new. Until then it may come again by any way there is;
after that only the state of its order protects, or its tombstone (docs/choreography.md: what is repeated).

The inbox has no index by time, and no partitions: what a fact is known by is its id alone, whoever published
it and whenever it says it did. So the table is walked, a few pages in a transaction, with long pauses. Where
nothing is old that costs about as much as reading it, and those who receive facts nothing at all.
"""

import asyncio
import time
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Integer,
    Table,
    Text,
    bindparam,
    case,
    cast,
    column,
    delete,
    exists,
    func,
    literal_column,
    not_,
    null,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import REGCLASS, insert
from sqlalchemy.types import UserDefinedType

from events.runtime.settings import ServiceSettings
from events.storage.database import Connection, Database
from events.storage.round_trip import RoundTrip, Rows, prepared
from events.storage.sql import WAIT_BRIEFLY, array_of, compiled, days, is_in, setting
from events.storage.tables import calls, inbox, outbox, tombstones
from events.telemetry.log import log
from events.telemetry.redaction import in_words

# Orders that ended long ago, whose state was deleted. Their tombstones know them when they come again.
#
# The inbox has forgotten their facts by then, and so has the state that knew them: without a tombstone, an
# `order.created` that is replayed after a year would reserve, charge and ship a second time.


_KNOWN = prepared(select(tombstones.c.order_id).where(is_in(tombstones.c.order_id, "order_ids")))


class Forgotten(Exception):
    """A command about an order that ended and was forgotten."""

    def __init__(self, order_id: UUID) -> None:
        super().__init__(f"order {order_id} ended long ago and was forgotten")
        self.order_id = order_id


def look_up(trip: RoundTrip, order_ids: Collection[UUID]) -> Rows:
    """Have it looked up which of these orders are forgotten."""
    return trip.add(_KNOWN, order_ids=list(order_ids))


class Graveyard:
    """How a service forgets orders of one table: those in a final status with nothing on its way.

    One that has no row there is forgotten as well: whatever comes of it comes too late.
    """

    def __init__(self, table: Table, final: Sequence[str], units: Column[Any] | None = None) -> None:
        """`units`: what the books still need of a forgotten order whose status is `sold`."""
        self._table = table
        self._final = list(final)
        self._units = units

    @cached_property
    def _bury(self) -> bytes:
        return compiled(_bury(self._table, self._units))

    async def bury(self, connection: Connection, order_ids: Sequence[UUID]) -> list[UUID]:
        """Delete the states of these orders as far as may be; says of which orders nothing is left."""
        await connection.execute(WAIT_BRIEFLY)
        async with connection.cursor(row_factory=tuple_row) as cursor:
            # Each once: no statement touches a tombstone twice.
            given = {"order_ids": list(dict.fromkeys(order_ids)), "final": self._final}
            await cursor.execute(self._bury, given)
            return [row[0] for row in await cursor.fetchall()]


def _bury(table: Table, units: Column[Any] | None) -> Any:
    """Deletes what is done, and keeps a tombstone of each and of what has no row."""
    key = table.c.order_id
    done = (
        select(key)
        .where(is_in(key, "order_ids"), is_in(table.c.status, "final"))
        .where(*(not_(exists().where(other.c.order_id == key)) for other in (calls, outbox)))
        .order_by(key)
        .with_for_update(skip_locked=True)
        .cte("done")
    )
    nothing = cast(null(), tombstones.c.units.type)
    kept = nothing if units is None else case((table.c.status == "sold", units))
    gone = delete(table).where(key == done.c.order_id).returning(key, kept.label("units")).cte("gone")
    given = func.unnest(array_of("order_ids", key)).table_valued(column("order_id", key.type), name="given")
    given = given.render_derived()
    unknown = select(given.c.order_id, nothing).where(not_(exists().where(key == given.c.order_id)))
    forgotten = union_all(select(gone.c.order_id, gone.c.units), unknown).subquery("forgotten")
    statement = insert(tombstones).from_select(
        ["order_id", "units"], select(*forgotten.c).order_by(forgotten.c.order_id)
    )
    again = {"forgotten_at": func.now()}
    return statement.on_conflict_do_update(index_elements=["order_id"], set_=again).returning(
        tombstones.c.order_id
    )


# Pages of 8 KiB, of some 80 rows each.
PAGES_AT_ONCE = 64
# Of the time a pass takes, so much is work. The rest is for those who receive facts.
SHARE_OF_TIME = 0.05

_size = func.pg_relation_size(bindparam("table", type_=Text).cast(REGCLASS), type_=BigInteger)
_PAGES = compiled(select((_size // func.current_setting("block_size").cast(Integer)).label("pages")))
# Losing this in a crash of the server only means that the rows are forgotten later.
_NO_FSYNC = compiled(setting("synchronous_commit", "off"))


class _RowAddress(UserDefinedType[str]):
    """Where a row is: its page, and its place there."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "tid"


def _forget(table: Table, since: Column[Any]) -> bytes:
    """The statement for those rows of some pages that are old: a scan of these alone."""
    address: ColumnElement[str] = literal_column(f"{table.name}.ctid")
    first, end = (
        func.format("(%s,0)", bindparam(name, type_=BigInteger)).cast(_RowAddress())
        for name in ("first", "end")
    )
    return compiled(delete(table).where(address >= first, address < end, since < func.now() - days("days")))


_FORGET = _forget(inbox, inbox.c.heard_at)
_FORGET_TOMBSTONES = _forget(tombstones, tombstones.c.forgotten_at)


class Retention:
    """One of every instance. Several forget the same rows, and one finds what the other has left."""

    def __init__(self, settings: ServiceSettings, database: Database) -> None:
        self._settings = settings
        self._database = database

    async def run(self) -> None:
        """Walk through both tables from time to time, for ever; for nothing if they are kept for ever."""
        while True:
            try:
                await self.walk()
            except psycopg.Error as error:  # such as a time limit of the server's: nothing depends on it
                log.error("inbox_not_walked", why=in_words(error))
            await asyncio.sleep(self._settings.inbox_walk_seconds)

    async def walk(self) -> None:
        """Forget what is old, from the first page to the last."""
        if days := self._settings.inbox_retention_days:
            await self._walk("inbox", _FORGET, days)
        if days := self._settings.tombstone_retention_days:
            await self._walk("tombstones", _FORGET_TOMBSTONES, days)

    async def _walk(self, table: str, statement: bytes, days: int) -> None:
        pages: int = (await self._database.rows_when_back(_PAGES, table=table))[0]["pages"]
        forgotten = 0
        for first in range(0, pages, PAGES_AT_ONCE):
            began = time.monotonic()
            forgotten += await self._forget(
                statement, {"first": first, "end": first + PAGES_AT_ONCE, "days": days}
            )
            await asyncio.sleep((time.monotonic() - began) * (1 / SHARE_OF_TIME - 1))
        if forgotten:
            log.info(f"{table}_forgot", rows=forgotten)

    async def _forget(self, statement: bytes, given: dict[str, int]) -> int:
        async def forget() -> int:
            async with self._database.transaction() as connection:
                await connection.execute(_NO_FSYNC)
                return (await connection.execute(statement, given)).rowcount

        return await self._database.until_done(forget)
