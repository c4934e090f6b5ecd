"""Has the services delete what they keep of orders whose saga was deleted, once that is old enough, too.

Only the tracker knows that an order ended: payment, for one, does not hear whether what it captured was ever
confirmed. Each service still keeps what it is itself not done with.
"""

from uuid import UUID

from events.storage.database import Database
from saga_tracker.reconciliation.parties import Parties
from saga_tracker.retention.old import Page, Row

_WITH_STATES = b"""
    SELECT order_id, ended_at FROM tombstones
    WHERE NOT states_forgotten AND ended_at < now() - make_interval(days => %(days)s)
        AND (%(after_at)s::timestamptz IS NULL OR (ended_at, order_id) > (%(after_at)s, %(after_id)s::uuid))
    ORDER BY ended_at, order_id LIMIT %(row_limit)s
"""
_NOTE = b"UPDATE tombstones SET states_forgotten = true WHERE order_id = ANY(%(order_ids)s::uuid[])"
# Those that the services still know go last: the tombstone is all that leads there.
_CRUMBLE = b"""
    DELETE FROM tombstones WHERE order_id = ANY(ARRAY(
        SELECT order_id FROM tombstones
        WHERE forgotten_at < now() - make_interval(days => %(days)s) AND (states_forgotten OR NOT %(wait)s)
        LIMIT %(row_limit)s))
"""


async def forget_states(
    database: Database, parties: Parties, days: int, after: Row | None, limit: int
) -> tuple[Page, int]:
    """Have a page of orders forgotten everywhere; says how many were. Raises NoAnswer."""
    given = {"days": days, "row_limit": limit, "after_at": None, "after_id": None}
    if after is not None:
        given |= {"after_at": after["ended_at"], "after_id": after["order_id"]}
    rows = await database.rows(_WITH_STATES, **given)
    page = Page(rows, rows[-1] if rows else None, len(rows) == limit)
    if not rows:
        return page, 0
    order_ids: list[UUID] = [row["order_id"] for row in rows]
    forgotten = await parties.forget(order_ids)
    async with database.transaction() as connection:
        await connection.execute(_NOTE, {"order_ids": sorted(forgotten)})
    return page, len(forgotten)


async def crumble(database: Database, days: int, *, states_too: bool, limit: int) -> tuple[Page, int]:
    """Delete some old tombstones; says how many."""
    async with database.transaction() as connection:
        given = {"days": days, "wait": states_too, "row_limit": limit}
        gone = (await connection.execute(_CRUMBLE, given)).rowcount
    return Page((), None, gone == limit), gone
