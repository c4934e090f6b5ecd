"""Keeps, through a rebuild, what the stream no longer has: the facts of sagas that it cannot tell again.

They come from the view as everybody else still sees it: over a connection of its own, from which nothing is
deleted before the rebuild commits. So nothing is copied that the stream has, and nothing is held in memory.
"""

from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg.sql import SQL, Identifier

from events.storage.database import Connection, connect_options
from saga_tracker.reading.recorder import derive_anew
from saga_tracker.settings import RebuildSettings
from saga_tracker.tables import saga_facts

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
