"""Finds what is old enough to be deleted, a page at a time by an index, and deletes one page.

What was read of a page may have changed by the time it is deleted: then it stays until the next pass.
"""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from events.storage.database import Connection
from saga_tracker.reading import repository
from saga_tracker.retention.rules import Kind

# --- Writes what is about to be deleted to files, a line of JSON each, safe on disk before it goes
#
# A file a day, kind and host. After a crash between the writing and the deleting, the same lines come a
# second
# time; one that a crash cut off is followed by a line of its own. So a reader skips a line that is no JSON,
# and
# takes the last of several of one id.


# Whoever may read the database may read these, and nobody else.
_MODE = 0o600


class Export:
    """One folder of files. Its methods block: call them in a thread. They raise OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._host = socket.gethostname()

    def write(self, kind: str, lines: Sequence[str], at: datetime) -> None:
        """Append these lines, and return once they will survive a crash of the machine."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{kind}-{at:%Y-%m-%d}.{self._host}.jsonl"
        is_new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, _MODE)
        with open(descriptor, "r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            cut_off = size and os.pread(descriptor, 1, size - 1) != b"\n"
            content = ("\n" if cut_off else "") + "".join(f"{line}\n" for line in lines)
            left = memoryview(content.encode())
            while left:
                left = left[file.write(left) :]
            os.fsync(descriptor)
        if is_new:
            self._sync_folder()

    def _sync_folder(self) -> None:
        """Else the file's name might not survive."""
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """What is old: rows that may go, and where the page ended. `full`: there may be more."""

    rows: Sequence[Row]
    last: Row | None
    full: bool


class Old(Protocol):
    """One kind of what grows old."""

    kind: Kind

    async def page(self, connection: Connection, days: int, after: Row | None, limit: int) -> Page:
        """What is old behind a place, at most so much."""

    async def lines(self, connection: Connection, rows: Sequence[Row]) -> list[str]:
        """These, whole, as JSON."""

    async def delete(self, connection: Connection, rows: Sequence[Row]) -> int:
        """Delete those that are as they were read; says how many. May raise AnotherWrites."""


_OLD_SAGAS = b"""
    SELECT order_id, ended_at, fact_count,
        NOT EXISTS (SELECT FROM dead_letters AS letter
            WHERE letter.order_id = sagas.order_id AND letter.state = 'open')
        AND NOT EXISTS (SELECT FROM differences WHERE differences.order_id = sagas.order_id)
        AND order_id NOT IN (SELECT order_id FROM outbox) AS may_go
    FROM sagas
    WHERE ended_at < now() - make_interval(days => %(days)s)
        AND (%(after_at)s::timestamptz IS NULL OR ended_at >= %(after_at)s
            AND (ended_at, order_id) > (%(after_at)s, %(after_id)s))
    ORDER BY ended_at, order_id LIMIT %(row_limit)s
"""
_SAGA_LINES = b"""
    SELECT (to_jsonb(sagas) - 'due_at' - 'waiting_for' || jsonb_build_object(
        'facts', (
            SELECT jsonb_agg(to_jsonb(fact) - 'order_id' - 'content'
                || jsonb_build_object('body', fact.body - 'payment_token') ORDER BY fact.stated_at)
            FROM saga_facts AS fact WHERE fact.order_id = sagas.order_id),
        'ledger_entries', (
            SELECT coalesce(jsonb_agg(to_jsonb(entry) - 'order_id' ORDER BY entry.entry_id), '[]')
            FROM ledger_entries AS entry WHERE entry.order_id = sagas.order_id)))::text AS line
    FROM sagas WHERE order_id = ANY(%(order_ids)s::uuid[]) ORDER BY ended_at, order_id
"""
_BURY = b"""
    WITH gone AS (
        DELETE FROM sagas USING unnest(%(order_ids)s::uuid[], %(fact_counts)s::int[]) AS given (id, facts)
        WHERE order_id = given.id AND fact_count = given.facts AND ended_at IS NOT NULL
        RETURNING order_id, state, ended_at)
    INSERT INTO tombstones (order_id, state, ended_at) SELECT order_id, state, ended_at FROM gone
    ON CONFLICT (order_id) DO UPDATE SET forgotten_at = now() RETURNING order_id
"""
_OF_ORDERS = [
    f"DELETE FROM {table} WHERE order_id = ANY(%(order_ids)s::uuid[])".encode()  # noqa: S608 - no input in it
    for table in ("saga_facts", "undated_facts", "comparisons", "ledger_entries")
]
_OLD_DEAD_LETTERS = b"""
    SELECT letter_id, true AS may_go FROM dead_letters
    WHERE state <> 'open' AND state_at < now() - make_interval(days => %(days)s)
    ORDER BY state_at LIMIT %(row_limit)s
"""
_DEAD_LETTER_LINES = b"""
    SELECT (to_jsonb(letter) || jsonb_build_object('body', encode(body, 'base64')))::text AS line
    FROM dead_letters AS letter WHERE letter_id = ANY(%(letter_ids)s::uuid[]) ORDER BY state_at
"""
_DELETE_DEAD_LETTERS = b"""
    DELETE FROM dead_letters WHERE letter_id = ANY(%(letter_ids)s::uuid[]) AND state <> 'open'
"""
_OLD_AUDIT = b"""
    SELECT entry_id,
        NOT EXISTS (SELECT FROM sagas WHERE sagas.order_id = audit.order_id AND sagas.ended_at IS NULL)
        AND NOT EXISTS (SELECT FROM dead_letters AS letter
            WHERE letter.letter_id = audit.letter_id AND letter.state = 'open') AS may_go
    FROM audit
    WHERE entry_id > %(after_id)s AND at < now() - make_interval(days => %(days)s)
    ORDER BY entry_id LIMIT %(row_limit)s
"""
_AUDIT_LINES = b"""
    SELECT to_jsonb(audit)::text AS line FROM audit
    WHERE entry_id = ANY(%(entry_ids)s::bigint[]) ORDER BY entry_id
"""
_DELETE_AUDIT = b"DELETE FROM audit WHERE entry_id = ANY(%(entry_ids)s::bigint[])"

# In the stream's order, so the oldest are the first.
_OLD_UNREADABLE = b"""
    SELECT stream_offset, true AS may_go FROM unreadable_messages
    WHERE stream_offset > %(after)s AND read_at < now() - make_interval(days => %(days)s)
    ORDER BY stream_offset LIMIT %(row_limit)s
"""
_UNREADABLE_LINES = b"""
    SELECT to_jsonb(message)::text AS line FROM unreadable_messages AS message
    WHERE stream_offset = ANY(%(offsets)s::bigint[]) ORDER BY stream_offset
"""
_DELETE_UNREADABLE = b"DELETE FROM unreadable_messages WHERE stream_offset = ANY(%(offsets)s::bigint[])"


class OldSagas:
    """Ended sagas with their facts. What is said of them again is known by their tombstones."""

    kind: Kind = "sagas"

    async def page(self, connection: Connection, days: int, after: Row | None, limit: int) -> Page:
        place = {"after_at": after["ended_at"], "after_id": after["order_id"]} if after else {}
        given = {"after_at": None, "after_id": None, "days": days, "row_limit": limit, **place}
        return _page(await (await connection.execute(_OLD_SAGAS, given)).fetchall(), limit)

    async def lines(self, connection: Connection, rows: Sequence[Row]) -> list[str]:
        return await _lines(connection, _SAGA_LINES, order_ids=_all(rows, "order_id"))

    async def delete(self, connection: Connection, rows: Sequence[Row]) -> int:
        # A fact that is being entered of one of these orders would else find its saga half gone.
        await repository.lock(connection)
        given = {"order_ids": _all(rows, "order_id"), "fact_counts": _all(rows, "fact_count")}
        gone = await (await connection.execute(_BURY, given)).fetchall()
        for delete in _OF_ORDERS:
            await connection.execute(delete, {"order_ids": _all(gone, "order_id")})
        return len(gone)


class OldDeadLetters:
    """Dead letters on which somebody has acted, or whose case is over."""

    kind: Kind = "dead_letters"

    async def page(self, connection: Connection, days: int, after: Row | None, limit: int) -> Page:
        given = {"days": days, "row_limit": limit}
        return _page(await (await connection.execute(_OLD_DEAD_LETTERS, given)).fetchall(), limit)

    async def lines(self, connection: Connection, rows: Sequence[Row]) -> list[str]:
        return await _lines(connection, _DEAD_LETTER_LINES, letter_ids=_all(rows, "letter_id"))

    async def delete(self, connection: Connection, rows: Sequence[Row]) -> int:
        return (
            await connection.execute(_DELETE_DEAD_LETTERS, {"letter_ids": _all(rows, "letter_id")})
        ).rowcount


class OldUnreadable:
    """What is known of messages of the stream that told of no saga."""

    kind: Kind = "unreadable"

    async def page(self, connection: Connection, days: int, after: Row | None, limit: int) -> Page:
        given = {"days": days, "row_limit": limit, "after": after["stream_offset"] if after else -1}
        return _page(await (await connection.execute(_OLD_UNREADABLE, given)).fetchall(), limit)

    async def lines(self, connection: Connection, rows: Sequence[Row]) -> list[str]:
        return await _lines(connection, _UNREADABLE_LINES, offsets=_all(rows, "stream_offset"))

    async def delete(self, connection: Connection, rows: Sequence[Row]) -> int:
        return (
            await connection.execute(_DELETE_UNREADABLE, {"offsets": _all(rows, "stream_offset")})
        ).rowcount


class OldAudit:
    """What people did. Entries are numbered as they were made."""

    kind: Kind = "audit"

    async def page(self, connection: Connection, days: int, after: Row | None, limit: int) -> Page:
        given = {"days": days, "row_limit": limit, "after_id": after["entry_id"] if after else 0}
        return _page(await (await connection.execute(_OLD_AUDIT, given)).fetchall(), limit)

    async def lines(self, connection: Connection, rows: Sequence[Row]) -> list[str]:
        return await _lines(connection, _AUDIT_LINES, entry_ids=_all(rows, "entry_id"))

    async def delete(self, connection: Connection, rows: Sequence[Row]) -> int:
        return (await connection.execute(_DELETE_AUDIT, {"entry_ids": _all(rows, "entry_id")})).rowcount


OLD: tuple[Old, ...] = (OldSagas(), OldDeadLetters(), OldUnreadable(), OldAudit())


def _page(found: Sequence[Row], limit: int) -> Page:
    rows = [row for row in found if row["may_go"]]
    return Page(rows, found[-1] if found else None, len(found) == limit)


async def _lines(connection: Connection, query: bytes, **given: Any) -> list[str]:
    return [row["line"] for row in await (await connection.execute(query, given)).fetchall()]


def _all(rows: Sequence[Row], name: str) -> list[Any]:
    return [row[name] for row in rows]
