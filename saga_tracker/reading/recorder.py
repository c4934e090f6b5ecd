"""Writes what was read off the stream: facts, the sagas they tell of and the position, all at once."""

import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any
from uuid import UUID

from sqlalchemy import Column, Table, Text, bindparam, column, func, literal, select, update, values
from sqlalchemy.dialects.postgresql import insert

from events.facts.payment import PaymentApproved, PaymentDeclined
from events.service import name_of
from events.storage.database import Connection
from events.storage.sql import as_arrays, compiled, rows_of
from saga_tracker.deadlines import Rules, due
from saga_tracker.projection import Saga, SagaFact, project
from saga_tracker.reading import repository
from saga_tracker.reading.batch import ReadBatch, ReadFact, begun_ids, sort_out
from saga_tracker.reading.repository import Position, ReadAnew
from saga_tracker.reconciliation.comparisons import COMPARE_LATER, COMPARED_STATES
from saga_tracker.tables import FIRST_READ_AT, audit, saga_facts, stream_position, unreadable_messages
from saga_tracker.timeline import Taken, step_taken

# What people decided at a service, as its facts say, is entered in the audit as they are read, once each: by
# the fact's name, what somebody did of whom it tells.
ACTIONS = {name_of(PaymentApproved): "approved", name_of(PaymentDeclined): "rejected"}
_KEY = [saga_facts.c.order_id, saga_facts.c.fact_id]
_decided = rows_of(_KEY)
_actions = values(column("name", Text), column("action", Text), name="actions", literal_binds=True).data(
    list(ACTIONS.items())
)
_by, _note = saga_facts.c.body["by"].astext, saga_facts.c.body["note"].astext
# Read again, as by a rebuild, it is the same entry. A payment that no person declined names nobody.
_ENTER = compiled(
    insert(audit)
    .from_select(
        ["at", "by", "action", "note", "service", "order_id", "case_id"],
        select(FIRST_READ_AT, _by, _actions.c.action, _note, saga_facts.c.stated_by, *_KEY)
        .join_from(saga_facts, _decided, (_KEY[0] == _decided.c.order_id) & (_KEY[1] == _decided.c.fact_id))
        .join(_actions, saga_facts.c.wire_name.startswith(_actions.c.name + literal(".")))
        .where(_by.is_not(None))
        .order_by(FIRST_READ_AT),
    )
    .on_conflict_do_nothing(index_elements=[audit.c.case_id])
)


async def enter_decisions(connection: Connection, facts: Iterable[ReadFact]) -> None:
    """Enter who decided, of facts that are in the view already."""
    decided = [(fact.order_id, fact.fact_id) for fact in facts if fact.saga_fact.name in ACTIONS]
    if decided:
        await connection.execute(_ENTER, as_arrays(_KEY, decided))


Key = tuple[UUID, UUID]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a batch brought into the view, and where the view stands with it.

    Of the orders that the batch was about: the facts that are new, all that are known, and the sagas that
    these tell of. `taken` are the steps that its facts ended, whoever entered them. `batch` is without what
    was in the view already; what contradicts that is unreadable.
    """

    position: Position
    batch: ReadBatch
    new: Mapping[UUID, Sequence[SagaFact]]
    known: Mapping[UUID, Sequence[SagaFact]]
    sagas: Mapping[UUID, Saga]
    taken: Mapping[Key, Taken]


# When facts of these orders and ids were first read, as far as that is known.
FirstRead = Callable[[Connection, Sequence[Key]], Awaitable[Mapping[Key, datetime]]]

# Facts keep the order in which they were read: each has an instant of its own.
_INSTANT = timedelta(microseconds=1)
# A clock that was set back by more is believed.
_JITTER = timedelta(seconds=1)
_MOVE = compiled(
    update(stream_position).values(
        stream_offset=bindparam("stream_offset"), message_id=bindparam("message_id"), moved_at=func.now()
    )
)


def _insert_new(table: Table, columns: Sequence[Column[Any]]) -> bytes:
    statement = insert(table).from_select([col.name for col in columns], select(*rows_of(columns).c))
    return compiled(statement.on_conflict_do_nothing())


_UNREADABLE = [column for column in unreadable_messages.c if column.name != "read_at"]
_unreadable = attrgetter(*(column.name for column in _UNREADABLE))
_ENTER_FACTS = _insert_new(saga_facts, list(saga_facts.c))
_ENTER_UNREADABLE = _insert_new(unreadable_messages, _UNREADABLE)


class Recorder:
    """Records batches in one transaction each, and remembers the facts of sagas under way between them.

    What is remembered holds as long as nobody else writes the view, which would have moved the position.
    It is forgotten when a batch begins, and known again when that is committed.
    """

    def __init__(self, rules: Rules, max_remembered: int, first_read: FirstRead | None = None) -> None:
        """`first_read` is asked where facts may have been read before, as by a rebuild."""
        self._rules = rules
        self._first_read = first_read
        self._last_read_at: datetime | None = None
        self._max_remembered = max_remembered
        self._remembered: dict[UUID, Sequence[SagaFact]] = {}
        self._as_of: Position | None = None
        self._set_aside: dict[UUID, Sequence[SagaFact]] = {}

    async def record(self, connection: Connection, batch: ReadBatch, reading: int) -> Recorded:
        """Become the view's writer, enter facts that are new, derive their sagas anew, move the position.

        A constant number of statements in four round trips, whatever the size of the batch; one more when
        somebody else wrote meanwhile, and one to ask when facts were first read. Raises AnotherWrites, or
        ReadAnew when this is not that reading any more.
        """
        remembered, self._remembered = self._remembered, {}
        order_ids = {fact.order_id for fact in batch.facts}
        unknown = sorted(order_ids - remembered.keys())
        known = await repository.lock_and_read(connection, unknown, begun_ids(batch))
        position, before = known.position, known.facts
        asked_seconds = time.monotonic()
        if position.reading != reading:
            raise ReadAnew
        if position == self._as_of:
            before |= {order_id: remembered[order_id] for order_id in order_ids & remembered.keys()}
        else:
            before |= await repository.facts_of(connection, sorted(order_ids & remembered.keys()))
            remembered = {}
        self._set_aside = remembered
        # What is published again of an order that ended and was forgotten belongs to no saga.
        fresh = batch.after(position.stream_offset).without(known.forgotten)
        if fresh.last_offset <= position.stream_offset:
            return Recorded(position, fresh, {}, {}, {}, _taken(batch, before))
        new, refused = sort_out(fresh, before, known.begun)
        fresh = replace(fresh, unreadable=[*fresh.unreadable, *refused])
        facts = self._clocked(new, known.now, asked_seconds, await self._read_before(connection, new))
        recorded = _recorded(fresh, reading, before, facts)
        await self._write(connection, recorded, facts)
        return recorded

    @property
    def remembered(self) -> Mapping[UUID, Sequence[SagaFact]]:
        """By order, the one that nothing is known of for longest first."""
        return self._remembered

    def committed(self, recorded: Recorded) -> None:
        """What `record` wrote is committed: the next batch may build on it."""
        remembered, self._set_aside = self._set_aside, {}
        for order_id, facts in recorded.known.items():
            remembered.pop(order_id, None)
            if recorded.sagas[order_id].ended_at is None:
                remembered[order_id] = facts
        excess = len(remembered) - self._max_remembered
        for order_id in list(itertools.islice(remembered, max(0, excess))):
            del remembered[order_id]
        self._remembered, self._as_of = remembered, recorded.position

    async def _read_before(self, connection: Connection, facts: Sequence[ReadFact]) -> Mapping[Key, datetime]:
        if self._first_read is None or not facts:
            return {}
        return await self._first_read(connection, [(fact.order_id, fact.fact_id) for fact in facts])

    def _clocked(
        self, facts: Sequence[ReadFact], now: datetime, seconds: float, before: Mapping[Key, datetime]
    ) -> list[ReadFact]:
        """With when each was first read, by the database's clock: that showed `now` at `seconds` on ours."""
        clocked: list[ReadFact] = []
        for fact in facts:
            at = before.get((fact.order_id, fact.fact_id))
            if at is None:
                at = now - timedelta(seconds=max(0.0, seconds - fact.arrived_seconds))
                last = self._last_read_at
                if last is not None and last - _JITTER < at <= last:
                    at = last + _INSTANT
                self._last_read_at = at
            clocked.append(fact.first_read(at))
        return clocked

    async def _write(self, connection: Connection, recorded: Recorded, facts: Sequence[ReadFact]) -> None:
        async with connection.pipeline():
            if facts:
                await connection.execute(_ENTER_FACTS, _arrays(facts))
                await enter_decisions(connection, facts)
            await _show(connection, recorded.sagas, self._rules)
            if recorded.batch.unreadable:
                rows = map(_unreadable, recorded.batch.unreadable)
                await connection.execute(_ENTER_UNREADABLE, as_arrays(_UNREADABLE, rows))
        # By itself, for the same reason as in `lock_and_read`.
        position = recorded.position
        await connection.execute(
            _MOVE, {"stream_offset": position.stream_offset, "message_id": position.message_id}
        )


async def derive_anew(connection: Connection, order_ids: Sequence[UUID], rules: Rules) -> None:
    """Show what the facts entered so far say of these orders. The caller holds the writer's lock."""
    sagas = await repository.sagas_of(connection, order_ids)
    await _show(connection, sagas, rules)


async def _show(connection: Connection, sagas: Mapping[UUID, Saga], rules: Rules) -> None:
    """What is shown has to be compared, where there is something to compare."""
    rows = [repository.row_of(order_id, saga, due(saga, rules)) for order_id, saga in sagas.items()]
    if rows:
        await repository.show(connection, rows)
    if compared := sorted(row["order_id"] for row in rows if row["state"] in COMPARED_STATES):
        await connection.execute(COMPARE_LATER, {"order_ids": compared})


def _recorded(
    batch: ReadBatch, reading: int, before: Mapping[UUID, Sequence[SagaFact]], facts: Sequence[ReadFact]
) -> Recorded:
    new: dict[UUID, list[SagaFact]] = {}
    for fact in facts:
        new.setdefault(fact.order_id, []).append(fact.saga_fact)
    known = {
        order_id: [*before.get(order_id, ()), *new.get(order_id, ())]
        for order_id in {fact.order_id for fact in batch.facts} & (before.keys() | new.keys())
    }
    sagas = {order_id: project(facts_known) for order_id, facts_known in known.items()}
    position = Position(batch.last_offset, batch.last_message_id, reading)
    return Recorded(position, batch, new, known, sagas, _taken(batch, known))


def _taken(batch: ReadBatch, known: Mapping[UUID, Sequence[SagaFact]]) -> dict[Key, Taken]:
    read = {(fact.order_id, fact.fact_id) for fact in batch.facts}
    return {
        (order_id, fact.fact_id): taken
        for order_id in {order_id for order_id, _ in read} & known.keys()
        for fact in known[order_id]
        if (order_id, fact.fact_id) in read and (taken := step_taken(fact, known[order_id]))
    }


def _arrays(facts: Sequence[ReadFact]) -> dict[str, list[Any]]:
    """One list per column; bodies are JSON text already."""
    columns = zip(ReadFact._fields, zip(*facts, strict=True), strict=True)
    return {name: list(values) for name, values in columns}
