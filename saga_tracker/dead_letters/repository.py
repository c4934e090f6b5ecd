"""Writes dead letters: their arrival, and what becomes of them."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Text,
    and_,
    bindparam,
    column,
    exists,
    func,
    literal,
    not_,
    select,
    update,
    values,
)
from sqlalchemy.dialects.postgresql import insert

from events.messaging.topology import TRACKER
from events.storage.database import Connection
from events.storage.sql import WAIT_BRIEFLY, as_arrays, compiled, is_in, rows_of
from saga_tracker.dead_letters.dead_letter import DeadLetter, DeadLetterKind, DeadLetterState
from saga_tracker.http.manual_cases import ANSWERS
from saga_tracker.tables import audit, dead_letters, saga_facts, sagas

_COLUMNS = [dead_letters.c[name] for name in DeadLetter.__slots__]
_row_of = attrgetter(*DeadLetter.__slots__)
_IS_OPEN = dead_letters.c.state == DeadLetterState.OPEN
_ENTER = compiled(
    insert(dead_letters)
    .from_select(
        [*(col.name for col in _COLUMNS), "state"],
        select(*rows_of(_COLUMNS).c, literal(DeadLetterState.OPEN.value)),
    )
    .on_conflict_do_nothing()
)
_TAKE = compiled(
    select(dead_letters)
    .where(is_in(dead_letters.c.letter_id, "letter_ids"))
    .order_by(dead_letters.c.letter_id)
    .with_for_update()
)
_MARK = compiled(
    update(dead_letters)
    .values(state=bindparam("new_state"), state_at=func.now())
    .where(is_in(dead_letters.c.letter_id, "letter_ids"), _IS_OPEN)
)
# A case is over once the timeline has the fact that was missing; a dead letter about it whose failure was
# answered by way of the saga has been replayed. Both follow from tables that only grow, so a crash loses
# neither.
_failed, _resolving = saga_facts.alias("failed"), saga_facts.alias("resolving")
_endings = values(column("failure", Text), column("ending", Text), name="endings", literal_binds=True).data(
    [(failure, ending) for failure, endings in ANSWERS.items() for ending in endings]
)


def _name(fact: FromClause) -> ColumnElement[str]:
    """As `name_of` has it."""
    return func.regexp_replace(fact.c.wire_name, "[.]v[0-9]+$", "")


_is_open_case = and_(_IS_OPEN, dead_letters.c.kind == DeadLetterKind.CASE)
_case_id = func.lower(dead_letters.c.message_id)
_is_over = exists().where(
    _failed.c.order_id == dead_letters.c.order_id,
    _failed.c.fact_id.cast(Text) == _case_id,
    _endings.c.failure == _name(_failed),
    _resolving.c.order_id == _failed.c.order_id,
    _endings.c.ending == _name(_resolving),
    _resolving.c.body["ending"].astext.is_not_distinct_from(_failed.c.body["ending"].astext),
)
_over = (
    update(dead_letters)
    .values(state=DeadLetterState.RESOLVED.value, state_at=func.now())
    .where(_is_open_case, _is_over)
    .returning(dead_letters.c.service, dead_letters.c.order_id, dead_letters.c.letter_id)
    .cte("over")
)
_CLOSE_RESOLVED = compiled(
    insert(audit).from_select(
        ["by", "role", "signed_in_by", "action", *_over.c.keys()],
        select(*map(literal, (TRACKER, "machine", "itself", "resolved")), *_over.c),
    )
)
# What a service failed at several times is needed no more once its order has ended by another way, and waits
# no more for that service. What it refused at once may be a forgery, and is a person's to see.
_its_fact = exists().where(
    saga_facts.c.order_id == dead_letters.c.order_id, saga_facts.c.fact_id.cast(Text) == _case_id
)
_not_needed = (
    update(dead_letters)
    .values(state=DeadLetterState.RESOLVED.value, state_at=func.now())
    .where(
        *(_IS_OPEN, dead_letters.c.kind == DeadLetterKind.UNUSABLE, dead_letters.c.attempts > 1),
        *(sagas.c.order_id == dead_letters.c.order_id, sagas.c.ended_at.is_not(None)),
        not_(sagas.c.waiting_for.has_key(dead_letters.c.service)),
        _its_fact,
    )
    .returning(
        *(dead_letters.c.service, dead_letters.c.order_id, dead_letters.c.letter_id),
        func.concat("its order ended without it: ", sagas.c.state, ", " + sagas.c.reason).label("note"),
    )
    .cte("not_needed")
)
_CLOSE_NOT_NEEDED = compiled(
    insert(audit).from_select(
        ["by", "role", "signed_in_by", "action", *_not_needed.c.keys()],
        select(*map(literal, (TRACKER, "machine", "itself", "resolved")), *_not_needed.c),
    )
)
_CLOSE_RETRIED = compiled(
    update(dead_letters)
    .values(state=DeadLetterState.REPLAYED.value, state_at=func.now())
    .where(
        _is_open_case,
        audit.c.order_id == dead_letters.c.order_id,
        audit.c.action == "retry_requested",
        audit.c.case_id.cast(Text) == _case_id,
    )
)


async def enter(connection: Connection, dead_letters: Sequence[DeadLetter]) -> int:
    """Store dead letters, open; those that are known already stay as they are. Says how many were new."""
    once_each = {dead_letter.letter_id: dead_letter for dead_letter in dead_letters}.values()
    cursor = await connection.execute(_ENTER, as_arrays(_COLUMNS, map(_row_of, once_each)))
    return cursor.rowcount


async def take(connection: Connection, letter_ids: Sequence[UUID]) -> list[dict[str, Any]]:
    """These dead letters, locked until the transaction ends: nobody else acts on them meanwhile.

    Raises one of CONTENTION when somebody else does for longer than a moment.
    """
    await connection.execute(WAIT_BRIEFLY)
    cursor = await connection.execute(_TAKE, {"letter_ids": list(letter_ids)})
    return await cursor.fetchall()


async def mark(connection: Connection, letter_ids: Sequence[UUID], state: DeadLetterState) -> None:
    """What has become of dead letters that were open."""
    if letter_ids:
        given = {"letter_ids": list(letter_ids), "new_state": state.value}
        await connection.execute(_MARK, given)


async def mark_replayed_cases(connection: Connection) -> None:
    """Mark the open dead letters of cases whose owners have been asked by way of their sagas."""
    await connection.execute(_CLOSE_RETRIED)


async def close_cases(connection: Connection) -> int:
    """Close the open dead letters of cases that are over or were answered, and of what is needed no more.

    Says how many.
    """
    resolved = await connection.execute(_CLOSE_RESOLVED)
    retried = await connection.execute(_CLOSE_RETRIED)
    not_needed = await connection.execute(_CLOSE_NOT_NEEDED)
    return resolved.rowcount + retried.rowcount + not_needed.rowcount
