"""What the tracker knows that it never read: facts that the stream no longer had when their turn came."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    DateTime,
    FromClause,
    Index,
    MetaData,
    Table,
    Text,
    Uuid,
    and_,
    bindparam,
    case,
    exists,
    func,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.schema import CreateIndex, CreateTable

from events.storage.database import Connection, connect_options
from events.storage.sql import array_of, compiled, seconds
from saga_tracker.reading.recorder import derive_anew
from saga_tracker.settings import RebuildSettings
from saga_tracker.tables import (
    FIRST_READ_AT,
    look_ups,
    saga_facts,
    sagas,
    stream_gaps,
    stream_position,
    unreadable_messages,
)

# --- Keeps, through a rebuild, what the stream no longer has: the facts of sagas that it cannot tell again
#
# They come from the view as everybody else still sees it: over a connection of its own, from which nothing
# is deleted before the rebuild commits. So nothing is copied that the stream has, and nothing is held in
# memory.


ORDERS_AT_ONCE = 500

_IDS = ("order_id", "fact_id")
_FOR_THE_TRANSACTION: dict[str, Any] = {"prefixes": ["TEMPORARY"], "postgresql_on_commit": "DROP"}
_temporary = MetaData()
facts_before = Table(
    "facts_before",
    _temporary,
    *(Column(name, Uuid) for name in _IDS),
    Column("read_at", DateTime(timezone=True)),
    **_FOR_THE_TRANSACTION,
)
missing = Table("missing", _temporary, *(Column(name, Uuid) for name in _IDS), **_FOR_THE_TRANSACTION)
wanted = Table("wanted", _temporary, *(Column(name, Uuid) for name in _IDS), prefixes=["TEMPORARY"])

REMEMBER_FACTS = (
    compiled(CreateTable(facts_before)),
    compiled(
        insert(facts_before).from_select(
            facts_before.c.keys(), select(saga_facts.c.order_id, saga_facts.c.fact_id, FIRST_READ_AT)
        )
    ),
    compiled(CreateIndex(Index("facts_before_by_id", facts_before.c.fact_id, facts_before.c.order_id))),
    b"ANALYZE facts_before",
)


def _same_fact(one: FromClause, other: FromClause) -> ColumnElement[bool]:
    return and_(*(one.c[name] == other.c[name] for name in _IDS))


_CREATE_MISSING = compiled(CreateTable(missing))
# What is refused today, in favour of another fact, is not missing.
_FIND_MISSING = compiled(
    insert(missing).from_select(
        _IDS,
        select(*(facts_before.c[name] for name in _IDS)).where(
            not_(exists().where(_same_fact(saga_facts, facts_before))),
            not_(
                exists().where(
                    unreadable_messages.c.message_id == facts_before.c.fact_id.cast(Text),
                    unreadable_messages.c.reason.in_(["reused_message_id", "contradicts"]),
                )
            ),
        ),
    )
)
_INDEX_MISSING = compiled(CreateIndex(Index("missing_by_order", missing.c.order_id)))
_CREATE_WANTED = compiled(CreateTable(wanted))
_OLD = select(*saga_facts.c).where(_same_fact(saga_facts, wanted))
_ended = exists().where(sagas.c.order_id == saga_facts.c.order_id, sagas.c.ended_at.is_not(None))
_COPY_OLD = b"COPY (%b) TO STDOUT" % compiled(_OLD)
_COPY_OLD_OF_ENDED = b"COPY (%b) TO STDOUT" % compiled(_OLD.where(_ended))
_COPY_INTO_FACTS = f"COPY saga_facts ({', '.join(saga_facts.c.keys())}) FROM STDIN".encode()
_after = bindparam("after", type_=Uuid)
_ORDERS = compiled(
    select(missing.c.order_id)
    .distinct()
    .where(_same_fact(missing, saga_facts), or_(_after.is_(None), missing.c.order_id > _after))
    .order_by(missing.c.order_id)
    .limit(bindparam("row_limit"))
)


async def keep_missing(connection: Connection, settings: RebuildSettings, *, ended_only: bool) -> int:
    """Enter what was in the view and was not read again; says how many facts.

    The transaction has deleted the view, read the stream, and made a table of what there was at first.
    """
    await connection.execute(_CREATE_MISSING)
    found = await connection.execute(_FIND_MISSING)
    if not found.rowcount:
        return 0
    await connection.execute(_INDEX_MISSING)
    old = await psycopg.AsyncConnection.connect(
        settings.database_url, autocommit=True, **connect_options(settings, "tracker rebuild, kept")
    )
    async with old:
        await old.execute(_CREATE_WANTED)
        await _copy(connection, b"COPY missing TO STDOUT", old, b"COPY wanted FROM STDIN")
        source = _COPY_OLD_OF_ENDED if ended_only else _COPY_OLD
        kept = await _copy(old, source, connection, _COPY_INTO_FACTS)
    await _show(connection, settings)
    return kept


async def _copy(source: Connection, query: bytes, target: Connection, into: bytes) -> int:
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

_after_offset = bindparam("after", type_=BigInteger)
_before_offset = bindparam("before", type_=BigInteger)
_NOTE = compiled(
    insert(stream_gaps).from_select(
        ["why", "after_offset", "before_offset", "after_at", "before_at"],
        select(
            bindparam("why", type_=Text),
            _after_offset,
            _before_offset,
            case((_after_offset >= 0, stream_position.c.moved_at)),
            func.now(),
        ),
    )
)
_ask_of_all = insert(look_ups).from_select(
    ["order_id", "waited_for_until"],
    select(sagas.c.order_id, func.now() + seconds("patience"))
    .where(sagas.c.ended_at.is_(None))
    .order_by(sagas.c.order_id),
)
# Whoever waits for something may wait for what was missed.
_ASK_OF_ALL = compiled(
    _ask_of_all.on_conflict_do_update(
        index_elements=["order_id"],
        set_={
            "due_at": func.now(),
            "proved": None,
            "waited_for_until": _ask_of_all.excluded.waited_for_until,
        },
    )
)
_ordered = func.unnest(array_of("order_ids", look_ups.c.order_id)).label("order_id")
_ASK = compiled(
    insert(look_ups)
    .from_select(["order_id"], select(_ordered).distinct().order_by("order_id"))
    .on_conflict_do_nothing()
)
_PASS = compiled(
    update(stream_position).values(stream_offset=_before_offset - 1, message_id=None, moved_at=func.now())
)
_LAST = compiled(select(*stream_gaps.c).order_by(stream_gaps.c.gap_id.desc()).limit(bindparam("row_limit")))


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
    await connection.execute(_NOTE, {"why": why, "after": after, "before": before})
    return (await connection.execute(_ASK_OF_ALL, {"patience": patience_seconds})).rowcount


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
