"""Orders that ended long ago, whose state was deleted. Their tombstones know them when they come again.

The inbox has forgotten their facts by then, and so has the state that knew them: without a tombstone, an
`order.created` that is replayed after a year would reserve, charge and ship a second time.
"""

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any
from uuid import UUID

from psycopg.rows import tuple_row
from sqlalchemy import (
    Column,
    Table,
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
from sqlalchemy.dialects.postgresql import insert

from events.storage.database import Connection
from events.storage.round_trip import RoundTrip, Rows, prepared
from events.storage.sql import array_of, compiled, setting
from events.storage.tables import calls, outbox, tombstones

_WAIT_BRIEFLY = compiled(setting("lock_timeout", "2s"))
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
        await connection.execute(_WAIT_BRIEFLY)
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
        .where(key == array_of("order_ids", key).any_())
        .where(table.c.status == array_of("final", table.c.status).any_())
        .where(*(not_(exists().where(other.c.order_id == key)) for other in (calls, outbox)))
        .order_by(key)
        .with_for_update(skip_locked=True)
        .cte("done")
    )
    nothing = cast(null(), tombstones.c.units.type)
    kept = nothing if units is None else case((table.c.status == literal_column("'sold'"), units))
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
