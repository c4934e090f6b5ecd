"""Writes what was read off the stream: facts, the sagas they tell of and the position, all at once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from psycopg import errors
from sqlalchemy import (
    ColumnElement,
    Table,
    bindparam,
    delete,
    func,
    literal_column,
    null,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from events.runtime.database import Connection
from events.runtime.sql import array_of, as_arrays, compiled, rows_of
from events.trace import trace_id
from saga_tracker.deadlines import Due, Rules, due, due_at
from saga_tracker.projection import HeardFact, Saga, project
from saga_tracker.reconciliation.comparisons import COMPARE_LATER, COMPARED_STATES
from saga_tracker.steps import name_of
from saga_tracker.tables import saga_facts, sagas, stream_position, undated_facts, unreadable_messages

# Whoever writes the view holds this lock for the transaction; a rebuild holds it for its one long one.
WRITER_LOCK = 20_413


@dataclass(frozen=True, slots=True)
class Position:
    """The last message in the view. `reading` changes when the stream is read anew from its start."""

    stream_offset: int
    message_id: str | None
    reading: int


@dataclass(frozen=True, slots=True)
class ReadFact:
    """A fact as it stood in the stream. `stated_at` is None where it does not say when it was stated."""

    stream_offset: int
    order_id: UUID
    fact_id: UUID
    wire_name: str
    stated_by: str
    causation_id: UUID | None
    stated_at: datetime | None
    traceparent: str | None
    body: str


@dataclass(frozen=True, slots=True)
class UnreadableMessage:
    """A message that tells of no saga, and why."""

    stream_offset: int
    reason: str
    detail: str
    message_id: str | None
    wire_name: str | None
    stated_by: str | None


@dataclass(frozen=True, slots=True)
class ReadBatch:
    """What was read off the stream, up to and including one message."""

    last_offset: int
    last_message_id: str | None
    facts: Sequence[ReadFact] = ()
    unreadable: Sequence[UnreadableMessage] = ()

    def after(self, stream_offset: int) -> "ReadBatch":
        """Without what is known already."""
        return ReadBatch(
            self.last_offset,
            self.last_message_id,
            [fact for fact in self.facts if fact.stream_offset > stream_offset],
            [message for message in self.unreadable if message.stream_offset > stream_offset],
        )


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a batch brought into the view: facts that were not in it, by order and fact id.

    Of the orders that the batch was about, all facts that are known, and the sagas that these tell of.
    """

    new: frozenset[tuple[UUID, UUID]]
    known: Mapping[UUID, Sequence[HeardFact]]
    sagas: Mapping[UUID, Saga]


class AnotherWrites(Exception):
    """Another process holds the writer's lock: a rebuild, or for a moment another tracker."""

    def __init__(self) -> None:
        super().__init__("another process is writing it: a rebuild, or another tracker")


class ReadAnew(Exception):
    """The stream is being read anew since this reader began: it has to go on from the stored position."""


_UNDATED_COLUMNS = list(undated_facts.c)
_WAIT_BRIEFLY = b"SET LOCAL lock_timeout = '2s'"
_LOCK = b"SELECT pg_advisory_xact_lock(%(lock)s)"
_POSITION = compiled(
    select(stream_position.c.stream_offset, stream_position.c.message_id, stream_position.c.reading)
)
_MOVE = compiled(
    update(stream_position).values(
        stream_offset=bindparam("stream_offset"), message_id=bindparam("message_id"), moved_at=func.now()
    )
)
_READ_ANEW = compiled(
    update(stream_position).values(stream_offset=text("-1"), message_id=null(), reading=text("reading + 1"))
)
_CLEAR = [compiled(delete(table)) for table in (sagas, saga_facts, unreadable_messages)]


def _insert_new(table: Table) -> bytes:
    columns = list(table.c)
    statement = insert(table).from_select([col.name for col in columns], select(*rows_of(columns).c))
    return compiled(statement.on_conflict_do_nothing())


def _insert_or_replace(table: Table) -> bytes:
    columns = list(table.c)
    statement = insert(table).from_select([col.name for col in columns], select(*rows_of(columns).c))
    replaced = {col.name: statement.excluded[col.name] for col in columns if not col.primary_key}
    return compiled(statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=replaced))


_ENTER_FACTS = _insert_new(saga_facts) + b" RETURNING order_id, fact_id"
_ENTER_UNDATED = _insert_new(undated_facts)
_ENTER_UNREADABLE = _insert_new(unreadable_messages)
_SHOW = _insert_or_replace(sagas)
_WHEN_FIRST_READ = compiled(
    select(*_UNDATED_COLUMNS).where(
        undated_facts.c.fact_id == array_of("fact_ids", undated_facts.c.fact_id).any_()
    )
)


def _said(field: str) -> ColumnElement[str]:
    return saga_facts.c.body.op("->>")(literal_column(f"'{field}'"))


_FACTS_OF = compiled(
    select(
        saga_facts.c.order_id,
        saga_facts.c.fact_id,
        saga_facts.c.wire_name,
        saga_facts.c.stated_at,
        saga_facts.c.dated,
        saga_facts.c.traceparent,
        func.coalesce(_said("reason"), _said("waiting_for")).label("reason"),
        _said("ending").label("ending"),
        _said("service").label("service"),
        func.coalesce(_said("redriven_id"), _said("because_of_id")).label("about"),
        saga_facts.c.causation_id,
    ).where(saga_facts.c.order_id == array_of("order_ids", saga_facts.c.order_id).any_())
)


async def position(connection: Connection) -> Position:
    """How far the stream is in the view."""
    cursor = await connection.execute(_POSITION)
    row = await cursor.fetchone()
    if row is None:
        raise LookupError("stream_position has no row: was the database migrated?")
    return Position(**row)


async def lock(connection: Connection) -> Position:
    """Become the view's one writer for this transaction. Raises AnotherWrites."""
    try:
        async with connection.pipeline():
            await connection.execute(_WAIT_BRIEFLY)
            await connection.execute(_LOCK, {"lock": WRITER_LOCK})
            return await position(connection)
    except errors.LockNotAvailable:
        raise AnotherWrites from None


async def read_anew(connection: Connection) -> Position:
    """Begin again at the start of the stream. Facts count once, so nothing that is known is lost by it."""
    await lock(connection)
    await connection.execute(_READ_ANEW)
    return await position(connection)


async def drop_view(connection: Connection) -> Position:
    """Forget all that was read. Other transactions see the old view until this one commits."""
    await lock(connection)
    for clear in _CLEAR:
        await connection.execute(clear)
    await connection.execute(_READ_ANEW)
    return await position(connection)


async def record(connection: Connection, batch: ReadBatch, rules: Rules) -> Recorded:
    """Enter facts that are new, derive their sagas anew, and move the position.

    A constant number of statements in three round trips, whatever the size of the batch. The caller holds
    the writer's lock.
    """
    facts = await _dated(connection, _once_each(batch.facts))
    order_ids = sorted({fact["order_id"] for fact in facts})
    async with connection.pipeline():
        entered = await connection.execute(_ENTER_FACTS, _arrays(saga_facts, facts))
        if batch.unreadable:
            rows = [asdict(message) for message in batch.unreadable]
            await connection.execute(_ENTER_UNREADABLE, _arrays(unreadable_messages, rows))
        known = await _facts_of(connection, order_ids)
        new = frozenset((row["order_id"], row["fact_id"]) for row in await entered.fetchall())
    told = {order_id: project(heard) for order_id, heard in known.items()}
    shown = [row_of(order_id, saga, due(saga, rules)) for order_id, saga in told.items()]
    async with connection.pipeline():
        if shown:
            await show(connection, shown)
        if compared := sorted(row["order_id"] for row in shown if row["state"] in COMPARED_STATES):
            await connection.execute(COMPARE_LATER, {"order_ids": compared})
        await connection.execute(
            _MOVE, {"stream_offset": batch.last_offset, "message_id": batch.last_message_id}
        )
    return Recorded(new, known, told)


async def show(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Enter sagas, or replace what was shown of them. The caller holds the writer's lock."""
    await connection.execute(_SHOW, as_arrays(list(sagas.c), rows))


async def sagas_of(connection: Connection, order_ids: Sequence[UUID]) -> dict[UUID, Saga]:
    """The sagas that the facts entered so far tell of."""
    known = await _facts_of(connection, order_ids)
    return {order_id: project(facts) for order_id, facts in known.items()}


async def _facts_of(connection: Connection, order_ids: Sequence[UUID]) -> dict[UUID, list[HeardFact]]:
    known = await connection.execute(_FACTS_OF, {"order_ids": order_ids})
    return _by_order(await known.fetchall())


def _once_each(facts: Sequence[ReadFact]) -> list[dict[str, Any]]:
    """As rows; of one fact read twice in a batch, the first."""
    rows: dict[tuple[UUID, UUID], dict[str, Any]] = {}
    for fact in facts:
        row = {name: getattr(fact, name) for name in ReadFact.__slots__}
        rows.setdefault((fact.order_id, fact.fact_id), row | {"dated": fact.stated_at is not None})
    return list(rows.values())


async def _dated(connection: Connection, facts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Date what does not say when it was stated by when it was first read, today or before a rebuild."""
    undated = [fact for fact in facts if fact["stated_at"] is None]
    if not undated:
        return facts
    now = datetime.now(UTC)
    rows = [
        {"order_id": fact["order_id"], "fact_id": fact["fact_id"], "first_read_at": now} for fact in undated
    ]
    async with connection.pipeline():
        await connection.execute(_ENTER_UNDATED, _arrays(undated_facts, rows))
        cursor = await connection.execute(
            _WHEN_FIRST_READ, {"fact_ids": [fact["fact_id"] for fact in undated]}
        )
        read_at = {(row["order_id"], row["fact_id"]): row["first_read_at"] for row in await cursor.fetchall()}
    for fact in undated:
        fact["stated_at"] = read_at[fact["order_id"], fact["fact_id"]]
    return facts


def _arrays(table: Table, rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows as one list per column; bodies are JSON text already."""
    return {col.name: [row[col.name] for row in rows] for col in table.c}


def _by_order(rows: Iterable[dict[str, Any]]) -> dict[UUID, list[HeardFact]]:
    heard: dict[UUID, list[HeardFact]] = {}
    for row in rows:
        fact = HeardFact(
            fact_id=row["fact_id"],
            name=name_of(row["wire_name"]),
            stated_at=row["stated_at"],
            dated=row["dated"],
            reason=row["reason"],
            ending=row["ending"],
            trace_id=trace_id(row["traceparent"]),
            service=row["service"],
            about=UUID(row["about"]) if row["about"] else row["causation_id"],
        )
        heard.setdefault(row["order_id"], []).append(fact)
    return heard


def row_of(order_id: UUID, saga: Saga, dues: tuple[Due, ...]) -> dict[str, Any]:
    """A saga as it is shown, and when the keeper has to look at it."""
    waits = [
        {
            "service": wait.service,
            "facts": wait.facts,
            "since": wait.since.isoformat(),
            "because_of": wait.because_of,
            "because_of_id": str(wait.because_of_id),
            "person": wait.person,
            "due_at": _iso(due_at(wait, dues)),
            "redriven_at": _iso(wait.redriven_at),
            "overdue_at": _iso(wait.overdue_at),
        }
        for wait in saga.waits
    ]
    return {
        "order_id": order_id,
        "state": saga.state.value,
        "since": saga.since,
        "waits": waits,
        "waiting_for": [name for wait in saga.waits for name in (wait.service, *wait.facts)],
        "timed_out": saga.timed_out,
        "started_at": saga.started_at,
        "ended_at": saga.ended_at,
        "reason": saga.reason,
        "trace_id": saga.trace_id,
        "fact_count": saga.fact_count,
        "due_at": min((due.at for due in dues), default=None),
    }


def _iso(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant else None
