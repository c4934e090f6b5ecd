"""Keeps why sagas wait, as their services reported last."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    Text,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import insert

from events.storage.database import Connection
from events.storage.sql import as_arrays, compiled, is_in, rows_of, seconds
from saga_tracker.causes.cause import DEAD_LETTER, Cause
from saga_tracker.tables import causes, dead_letters, sagas

# A message that failed and a lock are known to one instance alone: if another says nothing, that says little.
INSTANCE_SECONDS = 30.0
MAX_SWEPT = 5_000

_WAITS = func.jsonb_array_length(sagas.c.waits) > 0


def _some(by: ColumnElement[Any], *criteria: ColumnElement[bool]) -> Select[Any]:
    found = select(sagas.c.order_id, sagas.c.waits).where(_WAITS, *criteria).order_by(by)
    return select(*found.limit(bindparam("row_limit")).subquery().c)


# Those first that are late next, then those that have waited longest.
_WAITING = compiled(
    union_all(
        _some(sagas.c.due_at, sagas.c.due_at.is_not(None)), _some(sagas.c.since, sagas.c.ended_at.is_(None))
    )
)
_NEXT = compiled(
    select(sagas.c.order_id, sagas.c.waits, sagas.c.since)
    .where(
        sagas.c.ended_at.is_(None),
        sagas.c.since < func.now() - seconds("late_after_seconds"),
        tuple_(sagas.c.since, sagas.c.order_id)
        > tuple_(
            bindparam("after_since", type_=sagas.c.since.type),
            bindparam("after_order_id", type_=sagas.c.order_id.type),
        ),
    )
    .order_by(sagas.c.since, sagas.c.order_id)
    .limit(bindparam("row_limit"))
)
_COLUMNS = [causes.c[name] for name in ("order_id", "service", "because_of_id", "cause")]
_rows = rows_of(_COLUMNS)
_entered = insert(causes).from_select(
    [column.name for column in _COLUMNS], select(*_rows.c).order_by(_rows.c.order_id, _rows.c.service)
)
_KEEP = compiled(
    _entered.on_conflict_do_update(
        index_elements=[causes.c.order_id, causes.c.service],
        set_={
            "because_of_id": _entered.excluded.because_of_id,
            "cause": _entered.excluded.cause,
            "known_at": func.now(),
        },
    )
)
_KEY = [causes.c.order_id, causes.c.service]
_old = causes.c.known_at < func.now() - seconds("instance_seconds")
_DROP = compiled(
    delete(causes).where(
        tuple_(*_KEY).in_(select(*rows_of(_KEY).c)),
        causes.c.reason.is_(None),
        or_(causes.c.cause["kind"].astext.not_in(["message", "lock"]), _old),
    )
)
_OF = compiled(select(*_COLUMNS).where(is_in(causes.c.order_id, "order_ids")))
_first_reason = insert(causes).values(
    order_id=bindparam("order_id"),
    service=bindparam("service"),
    because_of_id=bindparam("because_of_id"),
    cause=func.jsonb_build_object(),
    reason=bindparam("reason"),
)
_SAY = compiled(
    _first_reason.on_conflict_do_update(
        index_elements=_KEY, set_={"reason": func.coalesce(causes.c.reason, _first_reason.excluded.reason)}
    ).returning(causes.c.reason)
)
_newest = select(causes.c.known_at).order_by(causes.c.known_at.desc()).offset(bindparam("max_rows")).limit(1)
_excess = (
    select(*_KEY)
    .where(causes.c.known_at < func.greatest(func.now() - seconds("keep_seconds"), _newest.scalar_subquery()))
    .order_by(causes.c.known_at)
    .limit(MAX_SWEPT)
    .with_for_update(skip_locked=True)
)
_SWEEP = compiled(delete(causes).where(tuple_(*_KEY).in_(_excess)))


# --- In words, to group sagas by, and to find them by

MAX_GIVEN_UP = 10_000


def _of_cause(name: str) -> ColumnElement[str]:
    return causes.c.cause.op("->>", return_type=Text())(literal(name))


KIND = _of_cause("kind")
WORDS: ColumnElement[str] = case(
    (KIND == "lock", "locked by " + func.coalesce(_of_cause("session"), "another session")),
    ((KIND == "call") & _of_cause("error").is_(None), _of_cause("what") + " is not answered yet"),
    else_=func.coalesce(_of_cause("error"), _of_cause("what")),
)
_letter_words: ColumnElement[str] = "dead letter: " + dead_letters.c.reason
_given_up = (
    dead_letters.c.state == "open",
    dead_letters.c.kind != "case",
    dead_letters.c.order_id.is_not(None),
)
# A message that was given up counts for more than what its service says of the order.
GIVEN_UP = (
    select(dead_letters.c.order_id, dead_letters.c.service, func.min(_letter_words).label("words"))
    .where(*_given_up)
    .group_by(dead_letters.c.order_id, dead_letters.c.service)
    .limit(MAX_GIVEN_UP)
    .subquery("given_up")
)
_wanted = bindparam("cause", type_=Text)
_is_reported = or_(_wanted == WORDS, _wanted == KIND)
_is_given_up = or_(_wanted == _letter_words, _wanted == literal(DEAD_LETTER))
# Orders of whom this is known, or was.
WITH_CAUSE = union_all(
    select(causes.c.order_id).where(_is_reported),
    select(dead_letters.c.order_id).where(*_given_up, _is_given_up),
).subquery("with_cause")


def waits_because(of: FromClause) -> ColumnElement[bool]:
    """That a saga waits for this cause now, looked up saga by saga."""

    def waits(**parts: ColumnElement[Any]) -> ColumnElement[bool]:
        wait = func.jsonb_build_object(*(part for name, value in parts.items() for part in (name, value)))
        return of.c.waits.op("@>")(func.jsonb_build_array(wait))

    letter = select(literal(1)).where(
        *_given_up,
        _is_given_up,
        dead_letters.c.order_id == of.c.order_id,
        waits(service=dead_letters.c.service),
    )
    reported = select(literal(1)).where(
        causes.c.order_id == of.c.order_id,
        _is_reported,
        waits(service=causes.c.service, because_of_id=causes.c.because_of_id),
        not_(
            exists().where(
                *_given_up,
                dead_letters.c.order_id == causes.c.order_id,
                dead_letters.c.service == causes.c.service,
            )
        ),
    )
    return or_(letter.correlate(of).offset(0).exists(), reported.correlate(of).offset(0).exists())


@dataclass(frozen=True, slots=True)
class Found:
    """Why an order waits for a service since a fact; None where that has nothing to say of it."""

    order_id: UUID
    service: str
    because_of_id: UUID
    cause: Cause | None


async def waiting(connection: Connection, limit: int) -> dict[UUID, list[dict[str, Any]]]:
    """Sagas that wait, those first that are late next, and what each waits for."""
    rows = await (await connection.execute(_WAITING, {"row_limit": limit})).fetchall()
    return {row["order_id"]: row["waits"] for row in rows}


async def waiting_next(
    connection: Connection, late_after_seconds: float, after: tuple[datetime, UUID], limit: int
) -> tuple[dict[UUID, list[dict[str, Any]]], tuple[datetime, UUID] | None]:
    """Of all sagas that stand for so long the next ones after a place, and where those end, if not all do."""
    given: dict[str, Any] = {"late_after_seconds": late_after_seconds, "row_limit": limit}
    given |= {"after_since": after[0], "after_order_id": after[1]}
    rows = await (await connection.execute(_NEXT, given)).fetchall()
    place = (rows[-1]["since"], rows[-1]["order_id"]) if len(rows) == limit else None
    return {row["order_id"]: row["waits"] for row in rows if row["waits"]}, place


async def keep(connection: Connection, found: Sequence[Found]) -> None:
    """Keep what was found, and forget what is over."""
    known = {(one.order_id, one.service): one for one in found}.values()
    if there := [one for one in known if one.cause is not None]:
        rows = [
            (one.order_id, one.service, one.because_of_id, one.cause.model_dump(mode="json"))
            for one in there
            if one.cause is not None
        ]
        await connection.execute(_KEEP, as_arrays(_COLUMNS, rows))
    if over := [(one.order_id, one.service) for one in known if one.cause is None]:
        await connection.execute(_DROP, as_arrays(_KEY, over) | {"instance_seconds": INSTANCE_SECONDS})


async def of_orders(connection: Connection, order_ids: Sequence[UUID]) -> dict[UUID, dict[str, Found]]:
    """What is kept of these orders, by order and service."""
    kept: dict[UUID, dict[str, Found]] = {order_id: {} for order_id in order_ids}
    if not order_ids:
        return kept
    rows = await (await connection.execute(_OF, {"order_ids": list(order_ids)})).fetchall()
    for row in rows:
        fields = row["order_id"], row["service"], row["because_of_id"], _cause(row["cause"])
        kept[row["order_id"]][row["service"]] = Found(*fields)
    return kept


async def reason_given(
    connection: Connection, order_id: UUID, service: str, because_of_id: UUID, reason: str
) -> str:
    """The reason from when it was late for the first time: this, unless there is one."""
    given = {"order_id": order_id, "service": service, "because_of_id": because_of_id, "reason": reason}
    row = await (await connection.execute(_SAY, given)).fetchone()
    return str(row["reason"]) if row else reason


async def sweep(connection: Connection, keep_seconds: float, max_rows: int) -> int:
    """Forget what is old, or too much; says how many."""
    given = {"keep_seconds": keep_seconds, "max_rows": max_rows}
    return (await connection.execute(_SWEEP, given)).rowcount


def _cause(kept: Mapping[str, Any]) -> Cause | None:
    """None of what another release wrote, and where there is only a reason."""
    try:
        return Cause.model_validate(kept) if kept else None
    except ValidationError:
        return None
