"""Reads the view: one saga with its timeline, sagas by filter, and figures about all of them.

Ages are by the database's clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.types.json import Jsonb
from sqlalchemy import (
    ColumnElement,
    FromClause,
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
from events.storage.sql import array_of, compiled, in_seconds, seconds, setting
from saga_tracker.causes.repository import WITH_CAUSE, waits_because
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
# All sagas, or those of them that are walked through.
Sagas = FromClause


def _columns(of: Sagas) -> list[ColumnElement[Any]]:
    reconstructed = (
        select(literal(1))
        .select_from(saga_facts)
        # Facts that were reconstructed have no place in the stream.
        .where(saga_facts.c.order_id == of.c.order_id, saga_facts.c.stream_offset < 0)
        .correlate(of)
        # Looked up for each saga that is shown: left to itself, PostgreSQL reads all facts first.
        .offset(0)
        .exists()
    )
    return [
        reconstructed.label("reconstructed"),
        *(of.c[column.name] for column in sagas.c if column.name not in ("waiting_for", "due_at")),
        in_seconds(_now - of.c.since).label("in_state_seconds"),
        in_seconds(func.coalesce(of.c.ended_at, _now) - of.c.started_at).label("duration_seconds"),
    ]


_COLUMNS = _columns(sagas)
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
    given: dict[str, Any] = {"row_limit": limit, "walk_limit": WALKED_SAGAS}
    criteria = [name for name in (*_CRITERIA, *_LOOKED_UP) if getattr(wanted, name, None) is not None]
    given |= {name: getattr(wanted, name) for name in criteria}
    if wanted.sku is not None:
        given["sku_line"] = Jsonb([{"sku": wanted.sku}])
    if after is not None:
        given |= {"after_since": after.since, "after_order_id": after.order_id}
    looked_up = tuple(name for name in _LOOKED_UP if name in criteria)
    others = tuple(name for name in criteria if name not in looked_up)
    way = continued, oldest_first = after is not None, wanted.oldest_first
    if not looked_up:
        return await _rows(connection, _page(others, *way), given)
    if (found := await _few(connection, looked_up, given)) is not None:
        checked = ("all_cause",) if wanted.cause is not None else ()
        return await _rows(connection, _page(("among", *checked, *others), *way), given | {"among": found})
    rows = await _rows(connection, _walk(looked_up, others, continued, oldest_first), given)
    if len(rows) == limit:
        return rows
    # They are frequent, and not among those where this begins: then all of them are looked up.
    return await _rows(connection, _page((*(f"all_{name}" for name in looked_up), *others), *way), given)


async def _rows(connection: Connection, query: bytes, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    return await (await connection.execute(query, given)).fetchall()


async def _few(
    connection: Connection, looked_up: tuple[str, ...], given: Mapping[str, Any]
) -> list[UUID] | None:
    """The orders that have all of this; None of more than a few."""
    query, limited = _some(looked_up), {**given, "row_limit": FEW_ORDERS + 1}
    if looked_up == ("sku",):
        async with connection.transaction():
            await connection.execute(_LOOK_AT_SOME)
            if len(await _rows(connection, query, limited)) > FEW_ORDERS:
                return None
    rows = await _rows(connection, query, limited)
    return [row["order_id"] for row in rows] if len(rows) <= FEW_ORDERS else None


# As their indexes have them.
_lines = saga_facts.c.body.op("->")(literal("lines"))
_customer = saga_facts.c.body.op("->>", return_type=Text())(literal("customer"))
_has_sku = _lines.op("@>")(bindparam("sku_line", type_=JSONB))
_is_customer = _customer == bindparam("customer", type_=Text)
# Of what few orders have, the orders are looked up first. Of what many have, so many sagas are looked at in
# turn.
FEW_ORDERS = 1_000
WALKED_SAGAS = 10_000
# Where the index has more, PostgreSQL answers with about so many, whichever: it shows that they are many.
_LOOK_AT_SOME = compiled(setting("gin_fuzzy_search_limit", str(2 * FEW_ORDERS)))


def _began_with(wanted: Any, of: Sagas) -> ColumnElement[bool]:
    """That this holds of what the order began with, looked up saga by saga."""
    return (
        select(literal(1))
        .select_from(saga_facts)
        .where(saga_facts.c.order_id == of.c.order_id, _begins, wanted)
        .correlate(of)
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
    "id_from": [sagas.c.order_id >= bindparam("id_from", type_=sagas.c.order_id.type)],
    "id_to": [sagas.c.order_id <= bindparam("id_to", type_=sagas.c.order_id.type)],
    "has_letter": [sagas.c.order_id == func.array(_with_letters).any_()],
}


_ORDERED = {"sku": _has_sku, "customer": _is_customer}
_LOOKED_UP = (*_ORDERED, "cause")


def _has(name: str, of: Sagas) -> ColumnElement[bool]:
    """That a saga has what is looked up of it."""
    if name == "cause":
        return of.c.ended_at.is_(None) & waits_because(of)
    return _began_with(_ORDERED[name], of)


def _orders_with(name: str) -> Select[Any]:
    if name == "cause":
        return select(WITH_CAUSE.c.order_id)
    return select(saga_facts.c.order_id).where(_begins, _ORDERED[name])


_CRITERIA |= {f"all_{name}": [sagas.c.order_id.in_(_orders_with(name))] for name in _ORDERED}
# That this was reported of an order is not enough: it may have gone on.
_CRITERIA["all_cause"] = [_has("cause", sagas)]


@cache
def _some(looked_up: tuple[str, ...]) -> bytes:
    """Orders that have all of this, up to so many."""
    ordered = [_ORDERED[name] for name in looked_up if name in _ORDERED]
    query = select(saga_facts.c.order_id).where(_begins, *ordered)
    if "cause" in looked_up:
        with_cause = _orders_with("cause")
        query = query.where(saga_facts.c.order_id.in_(with_cause)) if ordered else with_cause.distinct()
    return compiled(query.limit(bindparam("row_limit")))


def _in_turn(query: Select[Any], of: Sagas, oldest_first: bool) -> Select[Any]:
    order = [of.c.since, of.c.order_id]
    return query.order_by(*(order if oldest_first else [column.desc() for column in order]))


def _chosen(
    columns: Sequence[ColumnElement[Any]], criteria: tuple[str, ...], continued: bool, oldest_first: bool
) -> Select[Any]:
    query: Select[Any] = select(*columns).where(*(each for name in criteria for each in _CRITERIA[name]))
    if continued:
        here = tuple_(sagas.c.since, sagas.c.order_id)
        there = tuple_(
            bindparam("after_since", type_=TIMESTAMP(timezone=True)),
            bindparam("after_order_id", type_=sagas.c.order_id.type),
        )
        query = query.where(here > there if oldest_first else here < there)
    return _in_turn(query, sagas, oldest_first)


@cache
def _page(criteria: tuple[str, ...], continued: bool, oldest_first: bool) -> bytes:
    """The statement for a combination of criteria, each of which an index serves."""
    return compiled(_chosen(_COLUMNS, criteria, continued, oldest_first).limit(bindparam("row_limit")))


@cache
def _walk(looked_up: tuple[str, ...], others: tuple[str, ...], continued: bool, oldest_first: bool) -> bytes:
    """The same for what many have, of the first sagas that the others leave. They come in order."""
    first = _chosen(list(sagas.c), others, continued, oldest_first)
    walked = first.limit(bindparam("walk_limit")).subquery("walked")
    query: Select[Any] = select(*_columns(walked)).where(*(_has(name, walked) for name in looked_up))
    return compiled(_in_turn(query, walked, oldest_first).limit(bindparam("row_limit")))


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
