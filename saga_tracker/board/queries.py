"""What only the board asks of the tracker's database. Every query keeps to what is open, or to an index."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    DateTime,
    Double,
    Integer,
    Text,
    Uuid,
    bindparam,
    cast,
    column,
    extract,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB, distinct_on

from events.storage.database import Connection
from events.storage.sql import array_of, compiled
from saga_tracker.causes.repository import GIVEN_UP, WORDS
from saga_tracker.dead_letters.dead_letter import DeadLetterKind, DeadLetterState
from saga_tracker.projection import State
from saga_tracker.scheduler.leader import HOLDER
from saga_tracker.tables import (
    audit,
    causes,
    dead_letters,
    differences,
    outbox,
    saga_facts,
    sagas,
    selections,
    stream_gaps,
    stream_position,
)

LAST_MINUTES = 60
MAX_COUNTED = 10_000
MAX_INCIDENTS = 50

_now = func.now()
_hour_ago = func.date_trunc(literal_column("'minute'"), _now) - literal_column(
    f"interval '{LAST_MINUTES - 1} minutes'"
)
_open_letter = dead_letters.c.state == literal_column(f"'{DeadLetterState.OPEN}'")


def _minute(instant: Any) -> Any:
    """How many minutes ago, 0 for this one."""
    age = func.date_trunc(literal_column("'minute'"), _now) - func.date_trunc(
        literal_column("'minute'"), instant
    )
    return cast(extract("epoch", age) / literal_column("60"), Integer).label("minutes_ago")


# --- What is going on: for the first page, looked up once for everybody

_wait = func.jsonb_array_elements(sagas.c.waits).table_valued(column("value", JSONB), name="wait")
_of_wait = {
    name: _wait.c.value.op("->>", return_type=Text())(literal_column(f"'{name}'"))
    for name in ("service", "because_of", "because_of_id", "since", "person", "overdue_at", "redriven_at")
}
_waited_since = cast(_of_wait["since"], DateTime(timezone=True))
_took = cast(extract("epoch", sagas.c.ended_at - sagas.c.started_at), Double)


def _percentile(share: str, name: str) -> Any:
    return func.percentile_cont(literal_column(share)).within_group(_took).label(name)


_GOING_ON = {
    name: compiled(query)
    for name, query in {
        "open": select(sagas.c.state, func.count().label("sagas"))
        .where(sagas.c.ended_at.is_(None))
        .group_by(sagas.c.state),
        "waits": select(
            _of_wait["service"].label("service"),
            func.coalesce(GIVEN_UP.c.words, WORDS).label("cause"),
            func.array_agg(_of_wait["because_of"].distinct()).label("because_of"),
            func.count().label("sagas"),
            func.min(_waited_since).label("since"),
            func.count(_of_wait["overdue_at"]).label("overdue"),
            func.count(_of_wait["redriven_at"]).label("redriven"),
        )
        .select_from(
            sagas.join(_wait, literal_column("true"))
            .outerjoin(
                causes,
                (causes.c.order_id == sagas.c.order_id)
                & (causes.c.service == _of_wait["service"])
                & (causes.c.because_of_id == cast(_of_wait["because_of_id"], Uuid)),
            )
            .outerjoin(
                GIVEN_UP,
                (GIVEN_UP.c.order_id == sagas.c.order_id) & (GIVEN_UP.c.service == _of_wait["service"]),
            )
        )
        .where(
            sagas.c.ended_at.is_(None),
            _of_wait["person"] == literal_column("'false'"),
            _waited_since
            < _now - bindparam("late_after_seconds", type_=Double) * literal_column("interval '1 second'"),
        )
        .group_by(literal_column("1"), literal_column("2"))
        .order_by(func.count().desc())
        .limit(literal_column(str(MAX_INCIDENTS))),
        "started": select(_minute(sagas.c.started_at), func.count().label("sagas"))
        .where(sagas.c.started_at >= _hour_ago)
        .group_by(literal_column("1")),
        "ended": select(
            _minute(sagas.c.ended_at),
            func.count().filter(sagas.c.state == literal_column(f"'{State.COMPLETED}'")).label("completed"),
            func.count().filter(sagas.c.state != literal_column(f"'{State.COMPLETED}'")).label("cancelled"),
            _percentile("0.5", "p50_seconds"),
            _percentile("0.99", "p99_seconds"),
        )
        .where(sagas.c.ended_at >= _hour_ago)
        .group_by(literal_column("1")),
        "differences": select(func.count().label("differences")).select_from(differences),
        "outbox": select(
            func.count().label("waiting"),
            cast(extract("epoch", _now - func.min(outbox.c.entered_at)), Double).label("age_seconds"),
        ),
        "gaps": select(*stream_gaps.c).order_by(stream_gaps.c.gap_id.desc()).limit(literal_column("5")),
    }.items()
}
_GOING_ON["leader"] = HOLDER
_GOING_ON["letters"] = compiled(
    select(column("service"), func.count().label("letters"))
    .select_from(
        select(dead_letters.c.service)
        .where(_open_letter)
        .limit(literal_column(str(MAX_COUNTED)))
        .subquery("open_ones")
    )
    .group_by(literal_column("1"))
)
# A scan of an index: kept longer than the rest.
_ENDED = compiled(
    select(sagas.c.state, func.count().label("sagas"))
    .where(sagas.c.state.in_([literal_column(f"'{state}'") for state in (State.COMPLETED, State.CANCELLED)]))
    .group_by(sagas.c.state)
)


async def going_on(connection: Connection, late_after_seconds: float) -> dict[str, list[dict[str, Any]]]:
    """Everything that the first page tells of, by the name of each query."""
    given = {"late_after_seconds": late_after_seconds}
    async with connection.pipeline():
        cursors = {name: await connection.execute(query, given) for name, query in _GOING_ON.items()}
        return {name: await cursor.fetchall() for name, cursor in cursors.items()}


async def ended(connection: Connection) -> dict[str, int]:
    """How many sagas ended how."""
    cursor = await connection.execute(_ENDED)
    return {row["state"]: row["sagas"] for row in await cursor.fetchall()}


# --- What changed: asked once for all pages that are open

_CHANGES = compiled(
    select(
        select(stream_position.c.stream_offset).scalar_subquery().label("stream"),
        select(func.max(audit.c.entry_id)).scalar_subquery().label("audit"),
        select(func.max(dead_letters.c.arrived_at)).scalar_subquery().label("arrived"),
        select(func.max(dead_letters.c.state_at))
        .where(dead_letters.c.state != literal_column(f"'{DeadLetterState.OPEN}'"))
        .scalar_subquery()
        .label("closed"),
        select(func.max(selections.c.state_at)).scalar_subquery().label("selections"),
        select(func.count()).select_from(differences).scalar_subquery().label("differences"),
    )
)
_WATCHED = compiled(
    select(sagas.c.order_id, sagas.c.state, sagas.c.fact_count).where(
        sagas.c.order_id == array_of("order_ids", sagas.c.order_id).any_()
    )
)


async def changes(
    connection: Connection, order_ids: Sequence[UUID]
) -> tuple[dict[str, Any], dict[UUID, tuple[Any, ...]]]:
    """How far everything has come, and how each of these sagas stands."""
    async with connection.pipeline():
        marks = await connection.execute(_CHANGES)
        watched = await connection.execute(_WATCHED, {"order_ids": list(order_ids)})
        (row,), found = await marks.fetchall(), await watched.fetchall()
    return row, {each["order_id"]: (each["state"], each["fact_count"]) for each in found}


# --- Manual cases, a fact, and what a group of dead letters is about

_MANUAL = compiled(
    select(
        sagas.c.order_id, sagas.c.since, sagas.c.reason, sagas.c.waits, sagas.c.started_at, sagas.c.timed_out
    )
    .where(sagas.c.state == literal_column(f"'{State.NEEDS_MANUAL}'"))
    .order_by(sagas.c.since, sagas.c.order_id)
    .limit(bindparam("row_limit"))
)
_OPEN_CASES = compiled(
    select(dead_letters.c.order_id, dead_letters.c.letter_id, dead_letters.c.service, dead_letters.c.reason)
    .where(
        _open_letter,
        dead_letters.c.kind == literal_column(f"'{DeadLetterKind.CASE}'"),
        dead_letters.c.order_id == array_of("order_ids", dead_letters.c.order_id).any_(),
    )
    .order_by(dead_letters.c.arrived_at)
)
_recent = (
    select(sagas.c.order_id)
    .order_by(sagas.c.since.desc(), sagas.c.order_id.desc())
    .limit(literal_column("200"))
)
_EXAMPLE = compiled(
    select(
        saga_facts.c.order_id,
        saga_facts.c.fact_id,
        saga_facts.c.body.op("-")(literal_column("'payment_token'")).label("body"),
    )
    .where(saga_facts.c.order_id.in_(_recent), saga_facts.c.wire_name == bindparam("wire_name"))
    .limit(literal_column("1"))
)


async def example(connection: Connection, wire_name: str) -> dict[str, Any] | None:
    """A fact of this name and version, of one of the sagas that moved last."""
    return await (await connection.execute(_EXAMPLE, {"wire_name": wire_name})).fetchone()


async def manual(connection: Connection, limit: int) -> list[dict[str, Any]]:
    """The sagas that need a person, the one that waits longest first, with the letters of their failures."""
    cursor = await connection.execute(_MANUAL, {"row_limit": limit})
    found = await cursor.fetchall()
    cursor = await connection.execute(_OPEN_CASES, {"order_ids": [row["order_id"] for row in found]})
    letters: dict[UUID, list[dict[str, Any]]] = {}
    for row in await cursor.fetchall():
        letters.setdefault(row["order_id"], []).append(row)
    return [row | {"letters": letters.get(row["order_id"], [])} for row in found]


_CLAIMS = compiled(
    select(audit.c.order_id, audit.c.by, audit.c.at, audit.c.action)
    .ext(distinct_on(audit.c.order_id))
    .where(
        audit.c.order_id == array_of("order_ids", audit.c.order_id).any_(),
        audit.c.action.in_([literal_column("'claimed'"), literal_column("'unclaimed'")]),
    )
    .order_by(audit.c.order_id, audit.c.entry_id.desc())
)
_NOTES = compiled(
    select(audit.c.order_id, audit.c.note)
    .ext(distinct_on(audit.c.order_id))
    .where(audit.c.order_id == array_of("order_ids", audit.c.order_id).any_(), audit.c.note.is_not(None))
    .order_by(audit.c.order_id, audit.c.entry_id.desc())
)


async def claims(connection: Connection, order_ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
    """Of these orders, who took or gave back the case last (`claim`), and the last `note` about it."""
    given = {"order_ids": list(order_ids)}
    async with connection.pipeline():
        taken = await connection.execute(_CLAIMS, given)
        noted = await connection.execute(_NOTES, given)
        claimed, notes = await taken.fetchall(), await noted.fetchall()
    found: dict[UUID, dict[str, Any]] = {row["order_id"]: {"note": row["note"]} for row in notes}
    for row in claimed:
        found.setdefault(row["order_id"], {})["claim"] = row
    return found
