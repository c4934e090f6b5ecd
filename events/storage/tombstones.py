"""Orders that ended long ago, whose state was deleted. Their tombstones know them when they come again.

The inbox has forgotten their facts by then, and so has the state that knew them: without a tombstone, an
`order.created` that is replayed after a year would reserve, charge and ship a second time.
"""

from collections.abc import Collection, Sequence
from uuid import UUID

from psycopg.rows import tuple_row
from sqlalchemy import Column, Table, select

from events.storage.database import Connection
from events.storage.exchange import Answer, Exchange, prepared
from events.storage.sql import array_of
from events.storage.tables import tombstones

_WAIT_BRIEFLY = b"SET LOCAL lock_timeout = '2s'"
_KNOWN = prepared(
    select(tombstones.c.order_id).where(
        tombstones.c.order_id == array_of("order_ids", tombstones.c.order_id).any_()
    )
)


class Forgotten(Exception):
    """A command about an order that ended and was forgotten."""

    def __init__(self, order_id: UUID) -> None:
        super().__init__(f"order {order_id} ended long ago and was forgotten")
        self.order_id = order_id


def look_up(exchange: Exchange, order_ids: Collection[UUID]) -> Answer:
    """Have it looked up which of these orders are forgotten."""
    return exchange.ask(_KNOWN, order_ids=list(order_ids))


class Graveyard:
    """How a service forgets orders of one table: those in a final status with nothing on its way.

    One that has no row there is forgotten as well: whatever comes of it comes too late.
    """

    def __init__(self, table: Table, final: Sequence[str], units: Column[object] | None = None) -> None:
        """`units`: what the books still need of a forgotten order whose status is `sold`."""
        kept = f"CASE WHEN status = 'sold' THEN {units.name} END" if units is not None else "NULL::jsonb"
        self._final = list(final)
        self._bury = f"""
            WITH done AS (
                SELECT order_id FROM {table.name} WHERE order_id = ANY(%(order_ids)s::uuid[])
                    AND status = ANY(%(final)s::text[])
                    AND NOT EXISTS (SELECT FROM calls WHERE calls.order_id = {table.name}.order_id)
                    AND NOT EXISTS (SELECT FROM outbox WHERE outbox.order_id = {table.name}.order_id)
                ORDER BY order_id FOR UPDATE SKIP LOCKED
            ), gone AS (
                DELETE FROM {table.name} USING done WHERE {table.name}.order_id = done.order_id
                RETURNING {table.name}.order_id, {kept} AS units
            ), unknown AS (
                SELECT order_id, NULL::jsonb AS units FROM unnest(%(order_ids)s::uuid[]) AS given (order_id)
                WHERE NOT EXISTS (SELECT FROM {table.name} WHERE {table.name}.order_id = given.order_id)
            )
            INSERT INTO tombstones (order_id, units)
            SELECT * FROM (SELECT * FROM gone UNION ALL SELECT * FROM unknown) AS forgotten ORDER BY order_id
            ON CONFLICT (order_id) DO UPDATE SET forgotten_at = now() RETURNING order_id
        """.encode()  # noqa: S608 - names of tables alone

    async def bury(self, connection: Connection, order_ids: Sequence[UUID]) -> list[UUID]:
        """Delete the states of these orders as far as may be; says of which orders nothing is left."""
        await connection.execute(_WAIT_BRIEFLY)
        async with connection.cursor(row_factory=tuple_row) as cursor:
            # Each once: no statement touches a tombstone twice.
            given = {"order_ids": list(dict.fromkeys(order_ids)), "final": self._final}
            await cursor.execute(self._bury, given)
            return [row[0] for row in await cursor.fetchall()]
