"""Reads the view: one saga with its timeline, sagas by filter, and figures about all of them.

Ages are by the database's clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.types.json import Jsonb
from sqlalchemy import (
    ColumnElement,
    Select,
    Text,
    bindparam,
    case,
    func,
    literal,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

from events.storage.database import Connection
from events.storage.sql import array_of, compiled, in_seconds, seconds
from saga_tracker.causes.repository import WAITS_BECAUSE, WITH_CAUSE
from saga_tracker.scheduler.leader import HOLDER
from saga_tracker.tables import (
    FIRST_READ_AT,
    dead_letters,
    saga_facts,
    sagas,
    stream_gaps,
    stream_position,
    tombstones,
    unreadable_messages,
)

RECENT_MINUTES = 10
RECENT_ENDED = 1_000
# Of the messages of one saga that were given up, the last are shown.
MAX_LETTERS = 20


@dataclass(frozen=True, slots=True)
class SagaFilter:
    """Which sagas are asked for; None leaves a criterion out. `waiting_for` names a service or a fact.

    `since_from` and `since_to`: when they entered their state. `sku` and `customer`: what was ordered, and by
    whom. `id_from` and `id_to`: between which ids. `has_letter`: of which a dead letter is open. `cause`: why
    they wait, in words or by its kind.
    """

    state: str | None = None
    waiting_for: str | None = None
    older_than_seconds: float | None = None
    reason: str | None = None
    since_from: datetime | None = None
    since_to: datetime | None = None
    sku: str | None = None
    customer: str | None = None
    id_from: UUID | None = None
    id_to: UUID | None = None
    has_letter: bool | None = None
    cause: str | None = None
    oldest_first: bool = False


MIN_PREFIX_DIGITS = 4


def ids_beginning(prefix: str) -> tuple[UUID, UUID]:
    """The first and the last id that begins like this. Raises ValueError for what no id begins like."""
    digits = prefix.replace("-", "").lower()
    if not MIN_PREFIX_DIGITS <= len(digits) <= 32:
        raise ValueError(f"the beginning of an order's id has at least {MIN_PREFIX_DIGITS} digits")
    return UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page of sagas ended."""

    since: datetime
    order_id: UUID


_now = func.now()
# Facts that were reconstructed have no place in the stream.
_reconstructed = (
    select(literal(1))
    .select_from(saga_facts)
    .where(saga_facts.c.order_id == sagas.c.order_id, saga_facts.c.stream_offset < 0)
    .correlate(sagas)
    # Looked up for each saga that is shown: left to itself, PostgreSQL reads all facts first.
    .offset(0)
    .exists()
    .label("reconstructed")
)
_COLUMNS = [
    _reconstructed,
    *(column for column in sagas.c if column.name not in ("waiting_for", "due_at")),
    in_seconds(_now - sagas.c.since).label("in_state_seconds"),
    in_seconds(func.coalesce(sagas.c.ended_at, _now) - sagas.c.started_at).label("duration_seconds"),
]
_ONE = compiled(select(*_COLUMNS).where(sagas.c.order_id == bindparam("order_id")))
# A payment token is good for nothing but paying: it is nobody's to see.
_body = saga_facts.c.body.op("-")(literal("payment_token")).label("body")
# As the projection has it: an order began no later than anything else happened to it.
_begins = func.starts_with(saga_facts.c.wire_name, "order.created.")
_read_at = case((_begins, func.min(FIRST_READ_AT).over()), else_=FIRST_READ_AT).label("read_at")
_TIMELINE = compiled(
    select(
        saga_facts.c.fact_id,
        saga_facts.c.wire_name,
        saga_facts.c.stated_by,
        saga_facts.c.causation_id,
        saga_facts.c.stated_at,
        _read_at,
        saga_facts.c.stream_offset,
        _body,
    )
    .where(saga_facts.c.order_id == bindparam("order_id"))
    .order_by(_read_at, _begins.desc(), saga_facts.c.stream_offset)
)

_TOMBSTONE = compiled(
    select(tombstones.c.state, tombstones.c.ended_at, tombstones.c.forgotten_at).where(
        tombstones.c.order_id == bindparam("order_id")
    )
)


_LETTERS = compiled(
    select(
        *(dead_letters.c.letter_id, dead_letters.c.service, dead_letters.c.reason, dead_letters.c.wire_name),
        *(dead_letters.c.state, dead_letters.c.attempts, dead_letters.c.arrived_at),
    )
    .where(dead_letters.c.order_id == bindparam("order_id"), dead_letters.c.kind != "case")
    .order_by(dead_letters.c.arrived_at.desc())
    .limit(MAX_LETTERS)
)


class Saga(NamedTuple):
    """One saga, its timeline in the order of their reading, and the messages of it that were given up."""

    row: dict[str, Any]
    timeline: list[dict[str, Any]]
    letters: list[dict[str, Any]]


async def saga_of(connection: Connection, order_id: UUID) -> Saga | None:
    """One saga, or None for an order nobody spoke of."""
    async with connection.pipeline():
        found = await connection.execute(_ONE, {"order_id": order_id})
        timeline = await connection.execute(_TIMELINE, {"order_id": order_id})
        letters = await connection.execute(_LETTERS, {"order_id": order_id})
        saga = await found.fetchone()
        facts, given_up = await timeline.fetchall(), await letters.fetchall()
    return None if saga is None else Saga(saga, facts, given_up)


async def tombstone_of(connection: Connection, order_id: UUID) -> dict[str, Any] | None:
    """How an order ended, and when it was forgotten, if it was."""
    return await (await connection.execute(_TOMBSTONE, {"order_id": order_id})).fetchone()


async def sagas_where(
    connection: Connection, wanted: SagaFilter, after: Place | None, limit: int
) -> list[dict[str, Any]]:
    """Up to `limit` sagas, by when they entered their state."""
    given: dict[str, Any] = {"row_limit": limit}
    criteria = [name for name in _CRITERIA if getattr(wanted, name, None) is not None]
    given |= {name: getattr(wanted, name) for name in criteria}
    if wanted.sku is not None:
        given["sku_line"] = Jsonb([{"sku": wanted.sku}])
    ordered = tuple(name for name in ("sku", "customer") if name in criteria)
    if ordered and (found := await _few(connection, _rare(ordered), given)) is not None:
        given["among"] = found
        criteria = ["among", *(name for name in criteria if name not in ordered)]
    elif wanted.cause is not None and (found := await _few(connection, _RARE_CAUSE, given)) is not None:
        given["among"] = found
        criteria = ["among", *criteria]
    if after is not None:
        given |= {"after_since": after.since, "after_order_id": after.order_id}
    query = _page(tuple(criteria), after is not None, wanted.oldest_first)
    cursor = await connection.execute(query, given)
    return await cursor.fetchall()


async def _few(connection: Connection, query: bytes, given: dict[str, Any]) -> list[UUID] | None:
    """The orders that a query finds; None of more than a few."""
    cursor = await connection.execute(query, given | {"row_limit": RARE_ORDERS + 1})
    found = [row["order_id"] for row in await cursor.fetchall()]
    return found if len(found) <= RARE_ORDERS else None


# As their indexes have them.
_lines = saga_facts.c.body.op("->")(literal("lines"))
_customer = saga_facts.c.body.op("->>", return_type=Text())(literal("customer"))
_has_sku = _lines.op("@>")(bindparam("sku_line", type_=JSONB))
_is_customer = _customer == bindparam("customer", type_=Text)
# Of what was ordered rarely the orders are looked up first; of the rest, sagas are looked at in turn.
RARE_ORDERS = 1_000


def _began_with(wanted: Any) -> ColumnElement[bool]:
    """That this holds of what the order began with, looked up saga by saga."""
    return (
        select(literal(1))
        .select_from(saga_facts)
        .where(saga_facts.c.order_id == sagas.c.order_id, _begins, wanted)
        .correlate(sagas)
        .offset(0)
        .exists()
    )


# Read first, and sagas looked up by them: there are few beside the sagas.
_with_letters = (
    select(dead_letters.c.order_id)
    .where(dead_letters.c.state == "open", dead_letters.c.order_id.is_not(None))
    .limit(10_000)
    .scalar_subquery()
)
_CRITERIA: dict[str, Sequence[ColumnElement[bool]]] = {
    "state": [sagas.c.state == bindparam("state")],
    "waiting_for": [
        sagas.c.ended_at.is_(None),
        sagas.c.waiting_for.op("?")(bindparam("waiting_for", type_=Text)),
    ],
    "older_than_seconds": [sagas.c.since < _now - seconds("older_than_seconds")],
    "reason": [sagas.c.reason == bindparam("reason")],
    "since_from": [sagas.c.since >= bindparam("since_from", type_=TIMESTAMP(timezone=True))],
    "since_to": [sagas.c.since <= bindparam("since_to", type_=TIMESTAMP(timezone=True))],
    "among": [sagas.c.order_id == array_of("among", sagas.c.order_id).any_()],
    "sku": [_began_with(_has_sku)],
    "customer": [_began_with(_is_customer)],
    "id_from": [sagas.c.order_id >= bindparam("id_from", type_=sagas.c.order_id.type)],
    "id_to": [sagas.c.order_id <= bindparam("id_to", type_=sagas.c.order_id.type)],
    "cause": [sagas.c.ended_at.is_(None), WAITS_BECAUSE],
    "has_letter": [sagas.c.order_id == func.array(_with_letters).any_()],
}


_RARE_CAUSE = compiled(select(WITH_CAUSE.c.order_id).distinct().limit(bindparam("row_limit")))


@cache
def _rare(ordered: tuple[str, ...]) -> bytes:
    """Orders of a customer, or with a SKU, up to so many."""
    wanted = {"sku": _has_sku, "customer": _is_customer}
    query = select(saga_facts.c.order_id).where(_begins, *(wanted[name] for name in ordered))
    return compiled(query.limit(bindparam("row_limit")))


@cache
def _page(criteria: tuple[str, ...], continued: bool, oldest_first: bool) -> bytes:
    """The statement for a combination of criteria, each of which an index serves."""
    query: Select[Any] = select(*_COLUMNS)
    for name in criteria:
        query = query.where(*_CRITERIA[name])
    here = tuple_(sagas.c.since, sagas.c.order_id)
    if continued:
        there = tuple_(
            bindparam("after_since", type_=TIMESTAMP(timezone=True)),
            bindparam("after_order_id", type_=sagas.c.order_id.type),
        )
        query = query.where(here > there if oldest_first else here < there)
    order = [sagas.c.since, sagas.c.order_id]
    query = query.order_by(*(order if oldest_first else [column.desc() for column in order]))
    return compiled(query.limit(bindparam("row_limit")))


async def figures(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    """What `/stats` is made of, by the name of each query."""
    async with connection.pipeline():
        cursors = {name: await connection.execute(query) for name, query in _FIGURES.items()}
        return {name: await cursor.fetchall() for name, cursor in cursors.items()}


def _per_minute(instant: ColumnElement[Any]) -> Select[Any]:
    """How many per minute, in the recent minutes in which there were any."""
    minute = func.date_trunc("minute", instant).label("minute")
    earliest = func.date_trunc("minute", _now) - timedelta(minutes=RECENT_MINUTES)
    return (
        select(minute, func.count().label("sagas"))
        .where(instant > earliest)
        .group_by("minute")
        .order_by("minute")
    )


def _durations() -> Select[Any]:
    """How long the sagas took that ended last, by how they ended."""
    last = (
        select(sagas.c.state, in_seconds(sagas.c.ended_at - sagas.c.started_at).label("seconds"))
        .where(sagas.c.ended_at.is_not(None))
        .order_by(sagas.c.ended_at.desc())
        .limit(RECENT_ENDED)
        .subquery()
    )
    shares = {"p50": 0.5, "p99": 0.99}
    percentiles = [
        func.percentile_cont(share).within_group(last.c.seconds).label(f"{name}_seconds")
        for name, share in shares.items()
    ]
    return select(last.c.state, func.count().label("sagas"), *percentiles).group_by(last.c.state)


_FIGURES = {
    name: compiled(query)
    for name, query in {
        "states": select(
            sagas.c.state,
            func.count().label("sagas"),
            func.count().filter(sagas.c.timed_out).label("timed_out"),
        ).group_by(sagas.c.state),
        "oldest_waiting": select(*_COLUMNS)
        .where(sagas.c.ended_at.is_(None))
        .order_by(sagas.c.since, sagas.c.order_id)
        .limit(1),
        "started": _per_minute(sagas.c.started_at),
        "ended": _per_minute(sagas.c.ended_at),
        "durations": _durations(),
        "gaps": select(*stream_gaps.c).order_by(stream_gaps.c.gap_id.desc()).limit(5),
        "position": select(
            stream_position.c.stream_offset,
            in_seconds(_now - stream_position.c.moved_at).label("moved_seconds_ago"),
            select(func.count()).select_from(unreadable_messages).scalar_subquery().label("unreadable"),
        ),
    }.items()
} | {"leader": HOLDER}
