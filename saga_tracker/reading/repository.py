"""What every writer of the view shares: the right to write, the position, facts and sagas by order."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any
from uuid import UUID

from psycopg import errors
from psycopg.rows import tuple_row
from sqlalchemy import (
    ColumnElement,
    Table,
    delete,
    func,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from events.service import name_of
from events.storage.database import Connection
from events.storage.sql import WAIT_BRIEFLY, array_of, as_arrays, compiled, rows_of
from events.telemetry.tracing import trace_id
from saga_tracker.deadlines import Due, due_at
from saga_tracker.projection import Saga, SagaFact, project
from saga_tracker.tables import (
    FIRST_READ_AT,
    saga_facts,
    sagas,
    stream_position,
    tombstones,
    unreadable_messages,
)

# Whoever writes the view holds this lock for the transaction; a rebuild holds it for its one long one.
WRITER_LOCK = 20_413


@dataclass(frozen=True, slots=True)
class Position:
    """The last message in the view. `reading` changes when the stream is read anew from its start."""

    stream_offset: int
    message_id: str | None
    reading: int


@dataclass(frozen=True, slots=True)
class Known:
    """What a writer of the view begins with. `now` is the database's clock once it may write.

    Facts of its orders, which orders began under which ids, which are forgotten.
    """

    position: Position
    facts: dict[UUID, Sequence[SagaFact]]
    begun: dict[UUID, UUID]
    now: datetime
    forgotten: frozenset[UUID]


class AnotherWrites(Exception):
    """Another process holds the writer's lock: a rebuild, or for a moment another tracker."""

    def __init__(self) -> None:
        super().__init__("another process is writing it: a rebuild, or another tracker")


class ReadAnew(Exception):
    """The stream is being read anew since this reader began: it has to go on from the stored position."""


CLOCK = compiled(select(func.clock_timestamp().label("now")))
_LOCK = compiled(select(func.pg_advisory_xact_lock(WRITER_LOCK)))
_POSITION = compiled(
    select(stream_position.c.stream_offset, stream_position.c.message_id, stream_position.c.reading)
)
_READ_ANEW = compiled(
    update(stream_position).values(stream_offset=-1, message_id=None, reading=stream_position.c.reading + 1)
)
_CLEAR = [compiled(delete(table)) for table in (sagas, saga_facts, unreadable_messages)]


def _insert_or_replace(table: Table) -> bytes:
    columns = list(table.c)
    statement = insert(table).from_select([col.name for col in columns], select(*rows_of(columns).c))
    replaced = {col.name: statement.excluded[col.name] for col in columns if not col.primary_key}
    return compiled(statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=replaced))


_SHOW = _insert_or_replace(sagas)
_row_shown = itemgetter(*sagas.c.keys())


def _field(field: str) -> ColumnElement[str]:
    value: ColumnElement[str] = saga_facts.c.body[field].astext
    return value


# As the reader of the stream has it of a fact that has just been read.
_FACTS_OF = compiled(
    select(
        saga_facts.c.order_id,
        saga_facts.c.fact_id,
        saga_facts.c.wire_name,
        FIRST_READ_AT,
        saga_facts.c.stated_at,
        func.coalesce(_field("reason"), _field("waiting_for")),
        _field("ending"),
        saga_facts.c.traceparent,
        _field("service"),
        func.coalesce(_field("redriven_id"), _field("because_of_id")),
        saga_facts.c.causation_id,
        saga_facts.c.content,
    ).where(saga_facts.c.order_id == array_of("order_ids", saga_facts.c.order_id).any_())
)
# The orders that began under some ids, by these; looked up as the index has it.
_begun = (
    select(func.jsonb_object_agg(saga_facts.c.fact_id, saga_facts.c.order_id))
    .where(
        saga_facts.c.fact_id == array_of("begun_ids", saga_facts.c.fact_id).any_(),
        func.starts_with(saga_facts.c.wire_name, "order.created."),
    )
    .scalar_subquery()
    .label("begun")
)
_forgotten = func.array(
    select(tombstones.c.order_id)
    .where(tombstones.c.order_id == array_of("order_ids", tombstones.c.order_id).any_())
    .scalar_subquery()
).label("forgotten")
_POSITION_AND_KNOWN = compiled(
    select(
        stream_position.c.stream_offset,
        stream_position.c.message_id,
        stream_position.c.reading,
        _begun,
        func.clock_timestamp().label("now"),
        _forgotten,
    )
)


async def position(connection: Connection) -> Position:
    """How far the stream is in the view."""
    cursor = await connection.execute(_POSITION)
    return _position_in(_only(await cursor.fetchone()))


def _position_in(row: dict[str, Any]) -> Position:
    return Position(row["stream_offset"], row["message_id"], row["reading"])


def _only(row: dict[str, Any] | None) -> dict[str, Any]:
    if row is None:
        raise LookupError("stream_position has no row: was the database migrated?")
    return row


async def lock(connection: Connection) -> Position:
    """Become the view's one writer for this transaction. Raises AnotherWrites."""
    return (await lock_and_read(connection, [], [])).position


async def lock_and_read(
    connection: Connection, order_ids: Sequence[UUID], begun_ids: Sequence[UUID]
) -> Known:
    """The same, and what is known of these orders and of these ids, in two round trips."""
    try:
        async with connection.pipeline():
            await connection.execute(WAIT_BRIEFLY)
            await connection.execute(_LOCK)
            facts = await facts_of(connection, order_ids)
    except errors.LockNotAvailable:
        raise AnotherWrites from None
    # Not in the pipeline. After the end of one psycopg sends another message, to which PostgreSQL does not
    # answer. Its limit on idling in a transaction, if this process hangs, holds again after the next one.
    given = {"begun_ids": begun_ids, "order_ids": order_ids}
    row = _only(await (await connection.execute(_POSITION_AND_KNOWN, given)).fetchone())
    by_id = {UUID(fact_id): UUID(order_id) for fact_id, order_id in (row["begun"] or {}).items()}
    return Known(_position_in(row), facts, by_id, row["now"], frozenset(row["forgotten"]))


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


async def show(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Enter sagas, or replace what was shown of them. The caller holds the writer's lock."""
    await connection.execute(_SHOW, as_arrays(list(sagas.c), map(_row_shown, rows)))


async def sagas_of(connection: Connection, order_ids: Sequence[UUID]) -> dict[UUID, Saga]:
    """The sagas that the facts entered so far tell of."""
    known = await facts_of(connection, order_ids)
    return {order_id: project(facts) for order_id, facts in known.items()}


async def facts_of(connection: Connection, order_ids: Sequence[UUID]) -> dict[UUID, Sequence[SagaFact]]:
    """The facts of these orders, those of which any are known."""
    if not order_ids:
        return {}
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_FACTS_OF, {"order_ids": order_ids})
        rows = await cursor.fetchall()
    by_order: dict[UUID, list[SagaFact]] = {}
    for order_id, fact_id, wire_name, *fields, trace, service, about, cause, content in rows:
        read_at, stated_at, reason, ending = fields
        fact = SagaFact(
            fact_id=fact_id,
            name=name_of(wire_name),
            read_at=read_at,
            stated_at=stated_at,
            reason=reason,
            ending=ending,
            trace_id=trace_id(trace),
            service=service,
            about=UUID(about) if about else cause,
            content=content,
        )
        by_order.setdefault(order_id, []).append(fact)
    return dict(by_order)


def row_of(order_id: UUID, saga: Saga, dues: tuple[Due, ...]) -> dict[str, Any]:
    """A saga as it is shown, and when the scheduler has to look at it."""
    waits = [
        {
            "service": wait.service,
            "facts": wait.facts,
            "since": _iso(wait.since),
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
    return instant.astimezone(UTC).isoformat() if instant else None
