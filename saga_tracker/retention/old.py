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

from sqlalchemy import (
    Column,
    ColumnElement,
    Table,
    Text,
    and_,
    bindparam,
    delete,
    exists,
    func,
    literal_column,
    not_,
    or_,
    select,
    true,
    tuple_,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by, array, insert

from events.storage.database import Connection
from events.storage.sql import as_arrays, compiled, days, is_in, rows_of
from saga_tracker.reading import repository
from saga_tracker.settings import Kind
from saga_tracker.tables import (
    audit,
    comparisons,
    dead_letters,
    differences,
    ledger_entries,
    outbox,
    saga_facts,
    sagas,
    tombstones,
    undated_facts,
    unreadable_messages,
)

# --- Writes what is about to be deleted to files, a line of JSON each, safe on disk before it goes
#
# A file a day, kind and host. After a crash between the writing and the deleting, the same lines come a
# second time; one that a crash cut off is followed by a line of its own. So a reader skips a line that is no
# JSON, and takes the last of several of one id.


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


def _older(since: ColumnElement[datetime]) -> ColumnElement[bool]:
    return since < func.now() - days("days")


def _row(table: Table, *left_out: str) -> ColumnElement[Any]:
    """A row as JSON, but for these columns."""
    return _without(func.to_jsonb(table.table_valued()), *left_out)


def _without(document: ColumnElement[Any], *names: str) -> ColumnElement[Any]:
    return document.op("-")(array(names)) if names else document


def _with(document: ColumnElement[Any], **more: ColumnElement[Any]) -> ColumnElement[Any]:
    pairs = [part for name, value in more.items() for part in (name, value)]
    return document.op("||")(func.jsonb_build_object(*pairs))


def _lines_of(document: ColumnElement[Any], key: Column[Any], *order: Column[Any]) -> bytes:
    """The statement for the rows of some keys, a line of JSON each."""
    line = document.cast(Text).label("line")
    return compiled(select(line).where(is_in(key, "keys")).order_by(*order))


_after_at = bindparam("after_at", type_=sagas.c.ended_at.type)
_after_id = bindparam("after_id", type_=sagas.c.order_id.type)
_OPEN = dead_letters.c.state == "open"
_CLOSED = dead_letters.c.state != "open"
_is_free = and_(
    not_(exists().where(dead_letters.c.order_id == sagas.c.order_id, _OPEN)),
    not_(exists().where(differences.c.order_id == sagas.c.order_id)),
    sagas.c.order_id.not_in(select(outbox.c.order_id)),
)
_OLD_SAGAS = compiled(
    select(sagas.c.order_id, sagas.c.ended_at, sagas.c.fact_count, _is_free.label("may_go"))
    .where(
        _older(sagas.c.ended_at),
        or_(
            _after_at.is_(None),
            and_(
                sagas.c.ended_at >= _after_at,
                tuple_(sagas.c.ended_at, sagas.c.order_id) > tuple_(_after_at, _after_id),
            ),
        ),
    )
    .order_by(sagas.c.ended_at, sagas.c.order_id)
    .limit(bindparam("row_limit"))
)
_fact = _with(_row(saga_facts, "order_id", "content"), body=_without(saga_facts.c.body, "payment_token"))
_facts = select(func.jsonb_agg(aggregate_order_by(_fact, saga_facts.c.stated_at))).where(
    saga_facts.c.order_id == sagas.c.order_id
)
_entry = _row(ledger_entries, "order_id")
_entries = select(
    func.coalesce(
        func.jsonb_agg(aggregate_order_by(_entry, ledger_entries.c.entry_id)), literal_column("'[]'")
    )
).where(ledger_entries.c.order_id == sagas.c.order_id)
_SAGA_LINES = _lines_of(
    _with(
        _row(sagas, "due_at", "waiting_for"),
        facts=_facts.scalar_subquery(),
        ledger_entries=_entries.scalar_subquery(),
    ),
    sagas.c.order_id,
    sagas.c.ended_at,
    sagas.c.order_id,
)
_AS_READ = [sagas.c.order_id, sagas.c.fact_count]
_read = rows_of(_AS_READ)
_gone = (
    delete(sagas)
    .where(
        sagas.c.order_id == _read.c.order_id,
        sagas.c.fact_count == _read.c.fact_count,
        sagas.c.ended_at.is_not(None),
    )
    .returning(sagas.c.order_id, sagas.c.state, sagas.c.ended_at)
    .cte("gone")
)
_BURY = compiled(
    insert(tombstones)
    .from_select(_gone.c.keys(), select(*_gone.c))
    .on_conflict_do_update(index_elements=["order_id"], set_={"forgotten_at": func.now()})
    .returning(tombstones.c.order_id)
)
_OF_ORDERS = [
    compiled(delete(table).where(is_in(table.c.order_id, "order_ids")))
    for table in (saga_facts, undated_facts, comparisons, ledger_entries)
]
_OLD_DEAD_LETTERS = compiled(
    select(dead_letters.c.letter_id, true().label("may_go"))
    .where(_CLOSED, _older(dead_letters.c.state_at))
    .order_by(dead_letters.c.state_at)
    .limit(bindparam("row_limit"))
)
_DEAD_LETTER_LINES = _lines_of(
    _with(_row(dead_letters), body=func.encode(dead_letters.c.body, "base64")),
    dead_letters.c.letter_id,
    dead_letters.c.state_at,
)
_DELETE_DEAD_LETTERS = compiled(delete(dead_letters).where(is_in(dead_letters.c.letter_id, "keys"), _CLOSED))
_concerns_nothing_open = and_(
    not_(exists().where(sagas.c.order_id == audit.c.order_id, sagas.c.ended_at.is_(None))),
    not_(exists().where(dead_letters.c.letter_id == audit.c.letter_id, _OPEN)),
)
_OLD_AUDIT = compiled(
    select(audit.c.entry_id, _concerns_nothing_open.label("may_go"))
    .where(audit.c.entry_id > bindparam("after_id", type_=audit.c.entry_id.type), _older(audit.c.at))
    .order_by(audit.c.entry_id)
    .limit(bindparam("row_limit"))
)
_AUDIT_LINES = _lines_of(_row(audit), audit.c.entry_id, audit.c.entry_id)
_DELETE_AUDIT = compiled(delete(audit).where(is_in(audit.c.entry_id, "keys")))

_offset = unreadable_messages.c.stream_offset
# In the stream's order, so the oldest are the first.
_OLD_UNREADABLE = compiled(
    select(_offset, true().label("may_go"))
    .where(_offset > bindparam("after", type_=_offset.type), _older(unreadable_messages.c.read_at))
    .order_by(_offset)
    .limit(bindparam("row_limit"))
)
_UNREADABLE_LINES = _lines_of(_row(unreadable_messages), _offset, _offset)
_DELETE_UNREADABLE = compiled(delete(unreadable_messages).where(is_in(_offset, "keys")))


class OldSagas:
    """Ended sagas with their facts. What is published of them again is known by their tombstones."""

    kind: Kind = "sagas"

    async def page(self, connection: Connection, days: int, after: Row | None, limit: int) -> Page:
        place = {"after_at": after["ended_at"], "after_id": after["order_id"]} if after else {}
        given = {"after_at": None, "after_id": None, "days": days, "row_limit": limit, **place}
        return _page(await (await connection.execute(_OLD_SAGAS, given)).fetchall(), limit)

    async def lines(self, connection: Connection, rows: Sequence[Row]) -> list[str]:
        return await _lines(connection, _SAGA_LINES, _all(rows, "order_id"))

    async def delete(self, connection: Connection, rows: Sequence[Row]) -> int:
        # A fact that is being entered of one of these orders would else find its saga half gone.
        await repository.lock(connection)
        given = as_arrays(_AS_READ, [(row["order_id"], row["fact_count"]) for row in rows])
        gone = await (await connection.execute(_BURY, given)).fetchall()
        for statement in _OF_ORDERS:
            await connection.execute(statement, {"order_ids": _all(gone, "order_id")})
        return len(gone)


class OldDeadLetters:
    """Dead letters on which somebody has acted, or whose case is over."""

    kind: Kind = "dead_letters"

    async def page(self, connection: Connection, days: int, after: Row | None, limit: int) -> Page:
        given = {"days": days, "row_limit": limit}
        return _page(await (await connection.execute(_OLD_DEAD_LETTERS, given)).fetchall(), limit)

    async def lines(self, connection: Connection, rows: Sequence[Row]) -> list[str]:
        return await _lines(connection, _DEAD_LETTER_LINES, _all(rows, "letter_id"))

    async def delete(self, connection: Connection, rows: Sequence[Row]) -> int:
        return (await connection.execute(_DELETE_DEAD_LETTERS, {"keys": _all(rows, "letter_id")})).rowcount


class OldUnreadable:
    """What is known of messages of the stream that belonged to no saga."""

    kind: Kind = "unreadable"

    async def page(self, connection: Connection, days: int, after: Row | None, limit: int) -> Page:
        given = {"days": days, "row_limit": limit, "after": after["stream_offset"] if after else -1}
        return _page(await (await connection.execute(_OLD_UNREADABLE, given)).fetchall(), limit)

    async def lines(self, connection: Connection, rows: Sequence[Row]) -> list[str]:
        return await _lines(connection, _UNREADABLE_LINES, _all(rows, "stream_offset"))

    async def delete(self, connection: Connection, rows: Sequence[Row]) -> int:
        return (await connection.execute(_DELETE_UNREADABLE, {"keys": _all(rows, "stream_offset")})).rowcount


class OldAudit:
    """What people did. Entries are numbered as they were made."""

    kind: Kind = "audit"

    async def page(self, connection: Connection, days: int, after: Row | None, limit: int) -> Page:
        given = {"days": days, "row_limit": limit, "after_id": after["entry_id"] if after else 0}
        return _page(await (await connection.execute(_OLD_AUDIT, given)).fetchall(), limit)

    async def lines(self, connection: Connection, rows: Sequence[Row]) -> list[str]:
        return await _lines(connection, _AUDIT_LINES, _all(rows, "entry_id"))

    async def delete(self, connection: Connection, rows: Sequence[Row]) -> int:
        return (await connection.execute(_DELETE_AUDIT, {"keys": _all(rows, "entry_id")})).rowcount


OLD: tuple[Old, ...] = (OldSagas(), OldDeadLetters(), OldUnreadable(), OldAudit())


def _page(found: Sequence[Row], limit: int) -> Page:
    rows = [row for row in found if row["may_go"]]
    return Page(rows, found[-1] if found else None, len(found) == limit)


async def _lines(connection: Connection, query: bytes, keys: Sequence[Any]) -> list[str]:
    return [row["line"] for row in await (await connection.execute(query, {"keys": keys})).fetchall()]


def _all(rows: Sequence[Row], name: str) -> list[Any]:
    return [row[name] for row in rows]
