"""Dead letters in the database: their arrival and what becomes of them; some by filter, groups, one whole."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    FromClause,
    LargeBinary,
    ScalarSelect,
    Select,
    Text,
    and_,
    bindparam,
    column,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
    tuple_,
    update,
    values,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP, insert

from events.messaging.topology import TRACKER
from events.storage.database import Connection
from events.storage.sql import WAIT_BRIEFLY, as_arrays, compiled, is_in, rows_of
from saga_tracker.dead_letters.dead_letter import DeadLetter, DeadLetterKind, DeadLetterState
from saga_tracker.http.manual_cases import AFTERWARDS, ANSWERS
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


def _is_any(fact: FromClause, names: Iterable[str]) -> ColumnElement[bool]:
    return or_(*(_name(fact) == name for name in sorted(names)))


def _count_of(fact: FromClause, names: Iterable[str]) -> ScalarSelect[int]:
    """How many facts of these names there are of the failed order, about the same ending of it."""
    ending = fact.c.body["ending"].astext
    about = ending.is_not_distinct_from(_failed.c.body["ending"].astext)
    found = select(func.count()).where(fact.c.order_id == _failed.c.order_id, about, _is_any(fact, names))
    return found.correlate(_failed).scalar_subquery()


# What failed after it had been published as done is over with the next that is.
_done, _undone = saga_facts.alias("done"), saga_facts.alias("undone")
_done_again = or_(
    *(
        and_(_name(_failed) == name, _count_of(_done, ANSWERS[name]) > _count_of(_undone, {name}))
        for name in sorted(AFTERWARDS)
    )
)
_is_open_case = and_(_IS_OPEN, dead_letters.c.kind == DeadLetterKind.CASE)
_case_id = func.lower(dead_letters.c.message_id)
_is_over = exists().where(
    _failed.c.order_id == dead_letters.c.order_id,
    _failed.c.fact_id.cast(Text) == _case_id,
    _endings.c.failure == _name(_failed),
    _resolving.c.order_id == _failed.c.order_id,
    _endings.c.ending == _name(_resolving),
    _resolving.c.body["ending"].astext.is_not_distinct_from(_failed.c.body["ending"].astext),
    or_(not_(_is_any(_failed, AFTERWARDS)), _done_again),
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


# How many replays of one dead letter that came back are shown.
MAX_CAME_BACK = 100


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which dead letters are asked for; None leaves a criterion out."""

    service: str | None = None
    reason: str | None = None
    wire_name: str | None = None
    order_id: UUID | None = None
    state: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page of dead letters ended."""

    arrived_at: datetime
    letter_id: UUID


_WHOLE_ONLY = ("routing_key", "properties", "body")
_SHOWN = [column for column in dead_letters.c if column.name not in _WHOLE_ONLY]
_HERE = tuple_(dead_letters.c.arrived_at, dead_letters.c.letter_id)
_NEWEST_FIRST = (dead_letters.c.arrived_at.desc(), dead_letters.c.letter_id.desc())
_GROUP = (dead_letters.c.service, dead_letters.c.reason, dead_letters.c.wire_name)
_open_dead_letters = func.count().filter(_IS_OPEN)
_GROUPS = compiled(
    select(
        *_GROUP,
        _open_dead_letters.label("open"),
        func.count().label("dead_letters"),
        func.min(func.coalesce(dead_letters.c.first_at, dead_letters.c.arrived_at)).label("first_at"),
        func.max(func.coalesce(dead_letters.c.last_at, dead_letters.c.arrived_at)).label("last_at"),
    )
    .group_by(*_GROUP)
    .order_by(_open_dead_letters.desc(), func.max(dead_letters.c.arrived_at).desc(), *_GROUP)
    .limit(bindparam("row_limit"))
)
_ONE = compiled(
    select(
        *(column for column in dead_letters.c if column.name != "body"),
        func.octet_length(dead_letters.c.body).label("body_bytes"),
        func.substring(dead_letters.c.body, 1, bindparam("max_bytes"), type_=LargeBinary).label("body"),
    ).where(dead_letters.c.letter_id == bindparam("letter_id"))
)
_CAME_BACK_AS = compiled(
    select(dead_letters.c.letter_id)
    .where(dead_letters.c.replay_of == bindparam("letter_id"))
    .order_by(dead_letters.c.arrived_at)
    .limit(MAX_CAME_BACK)
)


async def dead_letters_where(
    connection: Connection, wanted: DeadLetterFilter, after: Place | None, limit: int
) -> list[dict[str, Any]]:
    """Up to `limit` dead letters without their bodies, those that arrived last first."""
    criteria, given = _given(wanted)
    given["row_limit"] = limit
    if after is not None:
        given |= {"after_arrived_at": after.arrived_at, "after_letter_id": after.letter_id}
    cursor = await connection.execute(_page(criteria, after is not None), given)
    return await cursor.fetchall()


async def open_dead_letter_ids(connection: Connection, wanted: DeadLetterFilter, limit: int) -> list[UUID]:
    """Up to `limit` open dead letters, those that arrived first first."""
    criteria, given = _given(wanted)
    cursor = await connection.execute(_open_ids(criteria), given | {"row_limit": limit})
    return [row["letter_id"] for row in await cursor.fetchall()]


async def count_open(connection: Connection, wanted: DeadLetterFilter) -> int:
    """How many open dead letters there are."""
    criteria, given = _given(wanted)
    cursor = await connection.execute(_count(criteria), given)
    rows = await cursor.fetchall()
    return int(rows[0]["dead_letters"])


async def groups(connection: Connection, limit: int) -> list[dict[str, Any]]:
    """Dead letters of one service, reason and fact together; those with most open ones first."""
    cursor = await connection.execute(_GROUPS, {"row_limit": limit})
    return await cursor.fetchall()


async def dead_letter(
    connection: Connection, letter_id: UUID, max_body_bytes: int
) -> tuple[dict[str, Any], list[UUID]] | None:
    """One dead letter with the beginning of its body, and those as which it came back after a replay."""
    async with connection.pipeline():
        found = await connection.execute(_ONE, {"letter_id": letter_id, "max_bytes": max_body_bytes})
        came_back = await connection.execute(_CAME_BACK_AS, {"letter_id": letter_id})
        row = await found.fetchone()
        came_back_as = [each["letter_id"] for each in await came_back.fetchall()]
    return None if row is None else (row, came_back_as)


def _given(wanted: DeadLetterFilter) -> tuple[tuple[str, ...], dict[str, Any]]:
    given = {name: getattr(wanted, name) for name in DeadLetterFilter.__slots__}
    given = {name: value for name, value in given.items() if value is not None}
    return tuple(given), given


def _matching(query: Select[Any], criteria: tuple[str, ...]) -> Select[Any]:
    return query.where(*(dead_letters.c[name] == bindparam(name) for name in criteria))


@cache
def _page(criteria: tuple[str, ...], continued: bool) -> bytes:
    query = _matching(select(*_SHOWN), criteria)
    if continued:
        there = tuple_(
            bindparam("after_arrived_at", type_=TIMESTAMP(timezone=True)),
            bindparam("after_letter_id", type_=dead_letters.c.letter_id.type),
        )
        query = query.where(there > _HERE)
    return compiled(query.order_by(*_NEWEST_FIRST).limit(bindparam("row_limit")))


@cache
def _open_ids(criteria: tuple[str, ...]) -> bytes:
    query = _matching(select(dead_letters.c.letter_id).where(_IS_OPEN), criteria)
    return compiled(
        query.order_by(dead_letters.c.arrived_at, dead_letters.c.letter_id).limit(bindparam("row_limit"))
    )


@cache
def _count(criteria: tuple[str, ...]) -> bytes:
    return compiled(_matching(select(func.count().label("dead_letters")).where(_IS_OPEN), criteria))
