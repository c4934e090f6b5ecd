"""What the tracker knows that it never read: facts that the stream no longer had when their turn came."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from events.storage.database import Connection

TRUNCATED = "the stream had deleted them"
MADE_ANEW = "the stream was made anew"

# Whoever waits for something may wait for what was missed.
_NOTE = b"""
    WITH gap AS (
        INSERT INTO stream_gaps (why, after_offset, before_offset, after_at, before_at)
        SELECT %(why)s, %(after)s, %(before)s, CASE WHEN %(after)s >= 0 THEN moved_at END, now()
        FROM stream_position RETURNING gap_id
    ), under_way AS (
        INSERT INTO look_ups (order_id, waited_for_until)
        SELECT order_id, now() + make_interval(secs => %(patience)s) FROM sagas WHERE ended_at IS NULL
        ORDER BY order_id
        ON CONFLICT (order_id) DO UPDATE
        SET due_at = now(), proved = NULL, waited_for_until = excluded.waited_for_until RETURNING order_id
    )
    SELECT count(*) AS sagas FROM under_way
"""
_ASK = b"""
    INSERT INTO look_ups (order_id) SELECT DISTINCT unnest(%(order_ids)s::uuid[]) ORDER BY 1
    ON CONFLICT DO NOTHING
"""
_PASS = b"UPDATE stream_position SET stream_offset = %(before)s - 1, message_id = NULL, moved_at = now()"
_LAST = b"SELECT * FROM stream_gaps ORDER BY gap_id DESC LIMIT %(row_limit)s"


@dataclass(frozen=True, slots=True)
class Gap:
    """Facts between two messages, or between two instants, that were never read."""

    why: str
    after_at: datetime | None
    before_at: datetime

    def __str__(self) -> str:
        after = self.after_at.isoformat(timespec="seconds") if self.after_at else "the beginning"
        return f"facts between {after} and {self.before_at.isoformat(timespec='seconds')} were never read"


async def note(connection: Connection, why: str, after: int, before: int, patience_seconds: float) -> int:
    """Enter that what stood between these offsets is lost; says how many sagas have to be looked up for it.

    For so many seconds these have no deadlines. The caller holds the writer's lock.
    """
    cursor = await connection.execute(
        _NOTE, {"why": why, "after": after, "before": before, "patience": patience_seconds}
    )
    row: dict[str, Any] | None = await cursor.fetchone()
    return int(row["sagas"]) if row else 0


async def ask(connection: Connection, order_ids: Sequence[UUID]) -> None:
    """Have the services of these sagas asked what they did and never stated."""
    if order_ids:
        await connection.execute(_ASK, {"order_ids": order_ids})


async def skip(connection: Connection, after: int, before: int, patience_seconds: float) -> int:
    """The same of the stream that is being read, which is read on behind the gap."""
    sagas = await note(connection, TRUNCATED, after, before, patience_seconds)
    await connection.execute(_PASS, {"before": before})
    return sagas


async def latest(connection: Connection, limit: int) -> list[Gap]:
    """The last gaps, the newest first."""
    rows = await (await connection.execute(_LAST, {"row_limit": limit})).fetchall()
    return [Gap(row["why"], row["after_at"], row["before_at"]) for row in rows]
