"""Writes dead letters: their arrival, and what becomes of them."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, bindparam, func, literal_column, select, update
from sqlalchemy.dialects.postgresql import insert

from events.messaging.topology import TRACKER
from events.storage.database import Connection
from events.storage.sql import WAIT_BRIEFLY, array_of, as_arrays, compiled, rows_of
from saga_tracker.dead_letters.dead_letter import DeadLetter, DeadLetterState
from saga_tracker.http.manual_cases import ANSWERS
from saga_tracker.tables import dead_letters

_COLUMNS = [dead_letters.c[name] for name in DeadLetter.__slots__]
_row_of = attrgetter(*DeadLetter.__slots__)
_OPEN: ColumnElement[str] = literal_column(f"'{DeadLetterState.OPEN}'")
_ENTER = compiled(
    insert(dead_letters)
    .from_select([*(col.name for col in _COLUMNS), "state"], select(*rows_of(_COLUMNS).c, _OPEN))
    .on_conflict_do_nothing()
)
_TAKE = compiled(
    select(dead_letters)
    .where(dead_letters.c.letter_id == array_of("letter_ids", dead_letters.c.letter_id).any_())
    .order_by(dead_letters.c.letter_id)
    .with_for_update()
)
_MARK = compiled(
    update(dead_letters)
    .values(state=bindparam("new_state"), state_at=func.now())
    .where(
        dead_letters.c.letter_id == array_of("letter_ids", dead_letters.c.letter_id).any_(),
        dead_letters.c.state == _OPEN,
    )
)
# A case is over once the trail has the fact that was missing; a dead letter about it whose failure was
# answered by way of the saga has been replayed. Both follow from tables that only grow, so a crash loses
# neither.
_CLOSE_RESOLVED = b"""
    WITH answers AS (
        SELECT * FROM unnest(%(failures)s::text[], %(answers)s::text[]) AS given (failure, answer)
    ), over AS (
        UPDATE dead_letters AS letter SET state = 'resolved', state_at = now()
        WHERE letter.state = 'open' AND letter.kind = 'case' AND EXISTS (
            SELECT FROM saga_facts AS failed
            JOIN answers ON answers.failure = regexp_replace(failed.wire_name, '[.]v[0-9]+$', '')
            JOIN saga_facts AS fact ON fact.order_id = failed.order_id
                AND regexp_replace(fact.wire_name, '[.]v[0-9]+$', '') = answers.answer
                AND fact.body ->> 'ending' IS NOT DISTINCT FROM failed.body ->> 'ending'
            WHERE failed.order_id = letter.order_id AND failed.fact_id::text = lower(letter.message_id))
        RETURNING letter_id, service, order_id
    )
    INSERT INTO audit (by, action, service, order_id, letter_id)
    SELECT %(tracker)s, 'resolved', service, order_id, letter_id FROM over
"""
# What a service failed at several times is needed no more once its order has ended by another way, and waits
# no more for that service. What it refused at once may be a forgery, and is a person's to see.
_CLOSE_NOT_NEEDED = b"""
    WITH over AS (
        UPDATE dead_letters AS letter SET state = 'resolved', state_at = now()
        FROM sagas
        WHERE letter.state = 'open' AND letter.kind = 'unusable' AND letter.attempts > 1
            AND sagas.order_id = letter.order_id AND sagas.ended_at IS NOT NULL
            AND NOT sagas.waiting_for ? letter.service
            AND EXISTS (
                SELECT FROM saga_facts AS fact
                WHERE fact.order_id = letter.order_id AND fact.fact_id::text = lower(letter.message_id))
        RETURNING letter_id, letter.service, letter.order_id, sagas.state, sagas.reason
    )
    INSERT INTO audit (by, action, note, service, order_id, letter_id)
    SELECT %(tracker)s, 'resolved',
        'its order ended without it: ' || state || coalesce(', ' || reason, ''), service, order_id, letter_id
    FROM over
"""
_CLOSE_RETRIED = b"""
    UPDATE dead_letters AS letter SET state = 'replayed', state_at = now()
    FROM audit
    WHERE letter.state = 'open' AND letter.kind = 'case' AND audit.order_id = letter.order_id
        AND audit.action = 'retry_requested' AND audit.case_id::text = lower(letter.message_id)
"""
_PAIRS = [(failure, answer) for failure, answers in ANSWERS.items() for answer in answers]


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
    failures, answers = zip(*_PAIRS, strict=True)
    given = {"failures": list(failures), "answers": list(answers), "tracker": TRACKER}
    resolved = await connection.execute(_CLOSE_RESOLVED, given)
    retried = await connection.execute(_CLOSE_RETRIED)
    not_needed = await connection.execute(_CLOSE_NOT_NEEDED, {"tracker": TRACKER})
    return resolved.rowcount + retried.rowcount + not_needed.rowcount
