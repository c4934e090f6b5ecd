"""Which orders are to be compared when, and what did not fit.

Whatever changes a saga that ended or needs a person enters it into `comparisons`, in the same transaction as
the view: so none is missed, however late it ended and whoever crashed. Taking one moves its `waiting_since`
ahead: if nothing comes of it, it waits again by then, and several trackers never take the same one.
Row locks of others, such as a rebuild's long ones, are passed over and never waited for.
"""

from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Text,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal_column,
    not_,
    or_,
    select,
    union,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from events.storage.database import Connection
from events.storage.sql import array_of, as_arrays, compiled, is_among, is_in, rows_of, seconds
from events.telemetry.log import log
from saga_tracker.consistency.rules import COMPARED, Difference
from saga_tracker.consistency.snapshot import Awaited, Movement, Party, SeenSaga
from saga_tracker.projection import State
from saga_tracker.tables import comparisons, differences, ledger_entries, saga_facts, sagas, tombstones

MAX_TEXT_CHARACTERS = 500
COMPARED_STATES = frozenset(state.value for state in COMPARED)

_ORDER_ID = comparisons.c.order_id
_AT_ONCE: ColumnElement[datetime] = literal_column("'-infinity'")
_given = array_of("order_ids", _ORDER_ID)
# The caller has `order_ids` in their order, so that no two transactions can deadlock.
COMPARE_LATER = compiled(
    insert(comparisons)
    .from_select(["order_id"], select(func.unnest(_given)))
    .on_conflict_do_update(index_elements=["order_id"], set_={"waiting_since": func.now()})
)
# Orders whose money moved after their end, or which nobody else has spoken of.
_moved = select(func.unnest(_given).label("order_id")).distinct().order_by("order_id").subquery("moved")
COMPARE_MOVED = compiled(
    insert(comparisons)
    .from_select(
        ["order_id"],
        select(_moved.c.order_id)
        .select_from(_moved.outerjoin(sagas, sagas.c.order_id == _moved.c.order_id))
        .where(
            or_(
                sagas.c.order_id.is_(None),
                sagas.c.ended_at.is_not(None),
                sagas.c.state == State.NEEDS_MANUAL.value,
            ),
            not_(exists().where(tombstones.c.order_id == _moved.c.order_id)),
        ),
    )
    .on_conflict_do_nothing()
)


def _longest_waiting(*criteria: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether it is one of those that wait for longest and are nobody's now."""
    first = select(_ORDER_ID).where(*criteria).order_by(comparisons.c.waiting_since)
    return is_among(_ORDER_ID, first.limit(bindparam("row_limit")).with_for_update(skip_locked=True))


_TAKE = compiled(
    update(comparisons)
    .values(waiting_since=func.now() + seconds("hold_seconds"))
    .where(_longest_waiting(comparisons.c.waiting_since <= func.now() - seconds("settle_seconds")))
    .returning(_ORDER_ID, comparisons.c.waiting_since)
)
_HURRY = compiled(update(comparisons).values(waiting_since=_AT_ONCE).where(_longest_waiting()))
_ended_last = (
    select(sagas.c.order_id)
    .where(sagas.c.ended_at.is_not(None))
    .order_by(sagas.c.ended_at.desc())
    .limit(bindparam("row_limit"))
)
_doubtful = union(_ended_last, select(differences.c.order_id)).subquery("doubtful")
_COMPARE_AGAIN = compiled(
    insert(comparisons)
    .from_select(["order_id", "waiting_since"], select(_doubtful.c.order_id, _AT_ONCE))
    .on_conflict_do_nothing()
)
_SAGAS = compiled(
    select(sagas.c.order_id, sagas.c.state, sagas.c.waits).where(is_in(sagas.c.order_id, "order_ids"))
)
_RETOLD = compiled(
    select(saga_facts.c.order_id)
    .distinct()
    .where(
        is_in(saga_facts.c.order_id, "order_ids"),
        saga_facts.c.wire_name.like("saga.retry_requested.%"),
        saga_facts.c.body["service"].astext == "notification",
    )
)
_MOVEMENT = [ledger_entries.c[name] for name in ("order_id", "kind", "amount_minor", "currency")]
_LEDGER = compiled(select(*_MOVEMENT).where(is_in(ledger_entries.c.order_id, "order_ids")))

_settled = seconds("settle_seconds")
_lasts = differences.c.last_seen_at - differences.c.first_seen_at
_KEY = [differences.c.order_id, differences.c.service, differences.c.about]
# Seen already, but not for long enough until now.
_SUSPECTED = compiled(
    select(*_KEY).where(
        is_in(differences.c.order_id, "order_ids"),
        _lasts < _settled,
        func.now() - differences.c.first_seen_at >= _settled,
    )
)
_FOUND = [*_KEY, differences.c.expected, differences.c.found]
_enter = insert(differences).from_select([col.name for col in _FOUND], select(*rows_of(_FOUND).c))
_ENTER_DIFFERENCES = compiled(
    _enter.on_conflict_do_update(
        index_elements=_KEY,
        set_={
            "expected": _enter.excluded.expected,
            "found": _enter.excluded.found,
            "last_seen_at": func.now(),
        },
    )
)
# Those that were found again bear the time of this transaction.
_FORGET_DIFFERENCES = compiled(
    delete(differences).where(
        is_in(differences.c.order_id, "order_ids"),
        is_in(differences.c.service, "services"),
        differences.c.last_seen_at < func.now(),
    )
)
# Of those that were taken, where nothing new was read meanwhile.
_still_taken = _ORDER_ID.in_(
    select(_ORDER_ID)
    .where(
        is_in(_ORDER_ID, "order_ids"),
        comparisons.c.waiting_since == bindparam("token", type_=comparisons.c.waiting_since.type),
    )
    .with_for_update(skip_locked=True)
)
_differs = differences.c.order_id == _ORDER_ID
# What was found for the first time is looked at again as soon as it has lasted long enough to count.
_AGAIN = compiled(
    update(comparisons)
    .values(
        waiting_since=case(
            (exists().where(_differs, _lasts < _settled), func.now()),
            else_=func.now() + seconds("recheck_seconds"),
        )
    )
    .where(_still_taken, or_(is_in(_ORDER_ID, "again"), exists().where(_differs)))
)
_DONE = compiled(delete(comparisons).where(_still_taken))
_LASTED = _lasts >= _settled
_party = bindparam("service", type_=Text)
_LISTED = compiled(
    select(*differences.c)
    .where(_LASTED, or_(_party.is_(None), differences.c.service == _party))
    .order_by(differences.c.first_seen_at, *_KEY)
    .limit(bindparam("row_limit"))
)
_COUNTS = compiled(
    select(
        func.count().filter(_LASTED).label("listed"),
        func.count().filter(not_(_LASTED)).label("unsettled"),
        select(func.count()).select_from(comparisons).scalar_subquery().label("waiting"),
    ).select_from(differences)
)


@dataclass(frozen=True, slots=True)
class Taken:
    """Orders to compare now. `token` is their `waiting_since` while nothing new is read of them."""

    order_ids: Sequence[UUID]
    token: datetime


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a difference must last to count, and when to look again at what is not settled."""

    settle_seconds: float
    recheck_seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a comparison came to. Of the parties `judged`, all differences were found."""

    compared: Sequence[UUID]
    found: Sequence[Difference]
    judged: AbstractSet[Party]
    again: Collection[UUID]


async def take(
    connection: Connection, settle_seconds: float, hold_seconds: float, limit: int
) -> Taken | None:
    """Orders that have waited for so long, at most so many; None when there is none."""
    parameters = {"settle_seconds": settle_seconds, "hold_seconds": hold_seconds, "row_limit": limit}
    rows = await (await connection.execute(_TAKE, parameters)).fetchall()
    return Taken([row["order_id"] for row in rows], rows[0]["waiting_since"]) if rows else None


async def hurry(connection: Connection, limit: int, recent: int) -> None:
    """Have what waits compared at once, and once more what did not fit or ended last."""
    await connection.execute(_HURRY, {"row_limit": limit})
    await connection.execute(_COMPARE_AGAIN, {"row_limit": recent})


async def sagas_of(
    connection: Connection, order_ids: Sequence[UUID]
) -> tuple[dict[UUID, SeenSaga], frozenset[UUID]]:
    """These orders as the view has them, if it does; and those of which it has what is not understood."""
    rows = await (await connection.execute(_SAGAS, {"order_ids": list(order_ids)})).fetchall()
    seen: dict[UUID, SeenSaga] = {}
    for row in rows:
        try:
            seen[row["order_id"]] = _seen(row)
        except (KeyError, TypeError, ValueError) as error:
            # Another version of the tracker wrote it.
            log.error("saga_not_understood", order_id=str(row["order_id"]), exc_info=error)
    return seen, frozenset(row["order_id"] for row in rows if row["order_id"] not in seen)


async def retold(connection: Connection, order_ids: Collection[UUID]) -> frozenset[UUID]:
    """Those of these orders whose customer a person wanted notified again."""
    rows = await (await connection.execute(_RETOLD, {"order_ids": list(order_ids)})).fetchall()
    return frozenset(row["order_id"] for row in rows)


async def ledger_of(connection: Connection, order_ids: Sequence[UUID]) -> dict[UUID, list[Movement]]:
    """The movements of money of these orders, as far as the provider's ledger was read."""
    rows = await (await connection.execute(_LEDGER, {"order_ids": list(order_ids)})).fetchall()
    movements: dict[UUID, list[Movement]] = {order_id: [] for order_id in order_ids}
    for row in rows:
        movements[row["order_id"]].append(Movement(row["kind"], row["amount_minor"], row["currency"]))
    return movements


async def settle(connection: Connection, taken: Taken, outcome: Outcome, pace: Pace) -> list[Difference]:
    """Enter what was found, forget what no longer is, and say when to look again.

    Answers what has become certain by this: it was seen before, and has lasted long enough now.
    """
    which = {"order_ids": list(taken.order_ids), "token": taken.token}
    suspected: set[tuple[UUID, str, str]] = set()
    if outcome.found:
        columns = _arrays(outcome.found)
        given = {"order_ids": columns["order_id"], "settle_seconds": pace.settle_seconds}
        rows = await (await connection.execute(_SUSPECTED, given)).fetchall()
        suspected = {(row["order_id"], row["service"], row["about"]) for row in rows}
        await connection.execute(_ENTER_DIFFERENCES, columns)
    await connection.execute(
        _FORGET_DIFFERENCES, {"order_ids": list(outcome.compared), "services": list(outcome.judged)}
    )
    pauses = {"settle_seconds": pace.settle_seconds, "recheck_seconds": pace.recheck_seconds}
    await connection.execute(_AGAIN, {**which, **pauses, "again": list(outcome.again)})
    await connection.execute(_DONE, which)
    return [each for each in outcome.found if (each.order_id, each.party, each.about) in suspected]


async def listed(
    connection: Connection, settle_seconds: float, service: Party | None, limit: int
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The differences that have lasted, oldest first; and how many last, do not yet, and wait."""
    async with connection.pipeline():
        rows = await connection.execute(
            _LISTED, {"settle_seconds": settle_seconds, "service": service, "row_limit": limit}
        )
        counts = await connection.execute(_COUNTS, {"settle_seconds": settle_seconds})
        found, (count,) = await rows.fetchall(), await counts.fetchall()
    return found, count


def _seen(row: dict[str, Any]) -> SeenSaga:
    waits = tuple(Awaited(wait["service"], tuple(wait["facts"]), wait["because_of"]) for wait in row["waits"])
    return SeenSaga(State(row["state"]), waits)


def _storable(text: str) -> str:
    return text.replace("\x00", "\ufffd")[:MAX_TEXT_CHARACTERS]


def _arrays(found: Sequence[Difference]) -> dict[str, list[Any]]:
    once_each = {(each.order_id, each.party, each.about): each for each in found}.values()
    return as_arrays(
        _FOUND,
        [
            (each.order_id, each.party, each.about, _storable(each.expected), _storable(each.found))
            for each in once_each
        ],
    )
