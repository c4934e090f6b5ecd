"""What the tracker knows that it never read: facts that the stream no longer had when their turn came."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg.sql import SQL, Identifier

from events.storage.database import Connection, connect_options
from saga_tracker.reading.recorder import derive_anew
from saga_tracker.settings import RebuildSettings
from saga_tracker.tables import saga_facts

# --- Keeps, through a rebuild, what the stream no longer has: the facts of sagas that it cannot tell again
#
# They come from the view as everybody else still sees it: over a connection of its own, from which nothing
# is
# deleted before the rebuild commits. So nothing is copied that the stream has, and nothing is held in
# memory.


ORDERS_AT_ONCE = 500

REMEMBER_FACTS = (
    b"""
    CREATE TEMPORARY TABLE facts_before ON COMMIT DROP AS
    SELECT order_id, fact_id, coalesce(read_at, stated_at) AS read_at FROM saga_facts
    """,
    b"CREATE INDEX ON facts_before (fact_id, order_id)",
    b"ANALYZE facts_before",
)
# What is refused today, in favour of another fact, is not missing.
_FIND_MISSING = """
    CREATE TEMPORARY TABLE missing ON COMMIT DROP AS
    SELECT order_id, fact_id FROM facts_before AS before
    WHERE NOT EXISTS (
        SELECT FROM saga_facts AS now WHERE (now.order_id, now.fact_id) = (before.order_id, before.fact_id))
    AND NOT EXISTS (
        SELECT FROM unreadable_messages AS refused
        WHERE refused.message_id = before.fact_id::text
        AND refused.reason IN ('reused_message_id', 'contradicts'))
"""
_INDEX_MISSING = "CREATE INDEX ON missing (order_id)"
_WANTED = "CREATE TEMPORARY TABLE wanted (order_id uuid, fact_id uuid)"
_OLD: LiteralString = """
    COPY (
        SELECT {columns} FROM saga_facts AS fact JOIN wanted USING (order_id, fact_id)
        WHERE NOT {ended_only} OR EXISTS (
            SELECT FROM sagas WHERE sagas.order_id = fact.order_id AND ended_at IS NOT NULL)
    ) TO STDOUT
"""
_ORDERS = """
    SELECT DISTINCT missing.order_id FROM missing JOIN saga_facts USING (order_id, fact_id)
    WHERE %(after)s::uuid IS NULL OR missing.order_id > %(after)s ORDER BY 1 LIMIT %(row_limit)s
"""


async def keep_missing(connection: Connection, settings: RebuildSettings, *, ended_only: bool) -> int:
    """Enter what was in the view and was not read again; says how many facts.

    The transaction has deleted the view, read the stream, and made a table of what there was at first.
    """
    found = await connection.execute(_FIND_MISSING)
    if not found.rowcount:
        return 0
    await connection.execute(_INDEX_MISSING)
    old = await psycopg.AsyncConnection.connect(
        settings.database_url, autocommit=True, **connect_options(settings, "tracker rebuild, kept")
    )
    async with old:
        await old.execute(_WANTED)
        await _copy(connection, "COPY missing TO STDOUT", old, "COPY wanted FROM STDIN")
        columns = SQL(", ").join(Identifier(column.name) for column in saga_facts.c)
        source = SQL(_OLD).format(columns=columns, ended_only=SQL("true" if ended_only else "false"))
        into = SQL("COPY saga_facts ({}) FROM STDIN").format(columns)
        kept = await _copy(old, source, connection, into)
    await _show(connection, settings)
    return kept


async def _copy(source: Connection, query: Any, target: Connection, into: Any) -> int:
    """Copy rows from one connection to another; says how many."""
    async with source.cursor() as giving, target.cursor() as taking:
        async with giving.copy(query) as given, taking.copy(into) as taken:
            async for data in given:
                await taken.write(data)
        return taking.rowcount


async def _show(connection: Connection, settings: RebuildSettings) -> None:
    """Derive the sagas of all whose facts were kept."""
    after: UUID | None = None
    while True:
        cursor = await connection.execute(_ORDERS, {"after": after, "row_limit": ORDERS_AT_ONCE})
        order_ids = [row["order_id"] for row in await cursor.fetchall()]
        if not order_ids:
            return
        after = order_ids[-1]
        await derive_anew(connection, order_ids, settings.deadline_rules)


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
    """Have the services of these sagas asked what they did and never published."""
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
