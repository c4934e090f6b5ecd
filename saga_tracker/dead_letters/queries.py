"""Reads dead letters: some by filter, their groups, and one whole."""

from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    LargeBinary,
    Select,
    bindparam,
    func,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP

from events.storage.database import Connection
from events.storage.sql import compiled
from saga_tracker.dead_letters.dead_letter import DeadLetterState
from saga_tracker.tables import dead_letters

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
_COLUMNS = [column for column in dead_letters.c if column.name not in _WHOLE_ONLY]
_HERE = tuple_(dead_letters.c.arrived_at, dead_letters.c.letter_id)
_NEWEST_FIRST = (dead_letters.c.arrived_at.desc(), dead_letters.c.letter_id.desc())
_IS_OPEN = dead_letters.c.state == DeadLetterState.OPEN
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
    query = _matching(select(*_COLUMNS), criteria)
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
