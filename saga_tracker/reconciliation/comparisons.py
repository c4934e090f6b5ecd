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

from events.storage.database import Connection
from events.telemetry.log import log
from saga_tracker.consistency.rules import COMPARED, Difference
from saga_tracker.consistency.snapshot import Awaited, Movement, Party, SeenSaga
from saga_tracker.projection import State

MAX_TEXT_CHARACTERS = 500
COMPARED_STATES = frozenset(state.value for state in COMPARED)

# The caller has `order_ids` in their order, so that no two transactions can deadlock.
COMPARE_LATER = b"""
    INSERT INTO comparisons (order_id) SELECT unnest(%(order_ids)b::uuid[])
    ON CONFLICT (order_id) DO UPDATE SET waiting_since = now()
"""
# Orders whose money moved after their end, or which nobody else has spoken of.
COMPARE_MOVED = b"""
    INSERT INTO comparisons (order_id)
    SELECT moved.order_id
    FROM (SELECT DISTINCT unnest(%(order_ids)b::uuid[]) AS order_id ORDER BY 1) AS moved
    LEFT JOIN sagas ON sagas.order_id = moved.order_id
    WHERE (sagas.order_id IS NULL OR sagas.ended_at IS NOT NULL OR sagas.state = 'NEEDS_MANUAL')
      AND NOT EXISTS (SELECT FROM tombstones WHERE tombstones.order_id = moved.order_id)
    ON CONFLICT DO NOTHING
"""
# Arrays, as what is only selected within IN may be selected several times, and other rows each time: then
# all that wait would be taken, limit or not.
_TAKE = b"""
    UPDATE comparisons SET waiting_since = now() + make_interval(secs => %(hold_seconds)s)
    WHERE order_id = ANY(ARRAY(
        SELECT order_id FROM comparisons
        WHERE waiting_since <= now() - make_interval(secs => %(settle_seconds)s)
        ORDER BY waiting_since LIMIT %(row_limit)s FOR UPDATE SKIP LOCKED))
    RETURNING order_id, waiting_since
"""
_HURRY = b"""
    UPDATE comparisons SET waiting_since = '-infinity' WHERE order_id = ANY(ARRAY(
        SELECT order_id FROM comparisons ORDER BY waiting_since LIMIT %(row_limit)s FOR UPDATE SKIP LOCKED))
"""
_COMPARE_AGAIN = b"""
    INSERT INTO comparisons (order_id, waiting_since)
    SELECT order_id, '-infinity' FROM (
        (SELECT order_id FROM sagas WHERE ended_at IS NOT NULL ORDER BY ended_at DESC LIMIT %(row_limit)s)
        UNION SELECT order_id FROM differences) AS again
    ON CONFLICT DO NOTHING
"""
_SAGAS = b"SELECT order_id, state, waits FROM sagas WHERE order_id = ANY(%(order_ids)b)"
_RETOLD = b"""
    SELECT DISTINCT order_id FROM saga_facts
    WHERE order_id = ANY(%(order_ids)b) AND wire_name LIKE 'saga.retry_requested.%%'
      AND body ->> 'service' = 'notification'
"""
_LEDGER = b"""
    SELECT order_id, kind, amount_minor, currency FROM ledger_entries WHERE order_id = ANY(%(order_ids)b)
"""
# Seen already, but not for long enough until now.
_SUSPECTED = b"""
    SELECT order_id, service, about FROM differences
    WHERE order_id = ANY(%(order_ids)b)
      AND last_seen_at - first_seen_at < make_interval(secs => %(settle_seconds)s)
      AND now() - first_seen_at >= make_interval(secs => %(settle_seconds)s)
"""
_ENTER_DIFFERENCES = b"""
    INSERT INTO differences (order_id, service, about, expected, found)
    SELECT * FROM unnest(
        %(order_ids)b::uuid[], %(services)b::text[], %(abouts)b::text[], %(expected)b::text[],
        %(found)b::text[])
    ON CONFLICT (order_id, service, about)
    DO UPDATE SET expected = excluded.expected, found = excluded.found, last_seen_at = now()
"""
# Those that were found again bear the time of this transaction.
_FORGET_DIFFERENCES = b"""
    DELETE FROM differences
    WHERE order_id = ANY(%(order_ids)b) AND service = ANY(%(services)b) AND last_seen_at < now()
"""
# What was found for the first time is looked at again as soon as it has lasted long enough to count.
_AGAIN = b"""
    UPDATE comparisons SET waiting_since = CASE
        WHEN EXISTS (
            SELECT FROM differences WHERE differences.order_id = comparisons.order_id
            AND last_seen_at - first_seen_at < make_interval(secs => %(settle_seconds)s))
        THEN now() ELSE now() + make_interval(secs => %(recheck_seconds)s) END
    WHERE order_id IN (
        SELECT order_id FROM comparisons
        WHERE order_id = ANY(%(order_ids)b) AND waiting_since = %(token)s FOR UPDATE SKIP LOCKED)
      AND (order_id = ANY(%(again)b)
        OR EXISTS (SELECT FROM differences WHERE differences.order_id = comparisons.order_id))
"""
_DONE = b"""
    DELETE FROM comparisons WHERE order_id IN (
        SELECT order_id FROM comparisons
        WHERE order_id = ANY(%(order_ids)b) AND waiting_since = %(token)s FOR UPDATE SKIP LOCKED)
"""
_LASTED = "last_seen_at - first_seen_at >= make_interval(secs => %(settle_seconds)s)"
_LISTED = f"""
    SELECT * FROM differences
    WHERE {_LASTED} AND (%(service)s::text IS NULL OR service = %(service)s)
    ORDER BY first_seen_at, order_id, service, about LIMIT %(row_limit)s
""".encode()  # noqa: S608 - no input in it
_COUNTS = f"""
    SELECT count(*) FILTER (WHERE {_LASTED}) AS listed, count(*) FILTER (WHERE NOT {_LASTED}) AS unsettled,
        (SELECT count(*) FROM comparisons) AS waiting
    FROM differences
""".encode()  # noqa: S608 - no input in it


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
    """Those of these orders whose customer a person wanted told again."""
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
        given = {"order_ids": columns["order_ids"], "settle_seconds": pace.settle_seconds}
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
    return {
        "order_ids": [each.order_id for each in once_each],
        "services": [each.party for each in once_each],
        "abouts": [each.about for each in once_each],
        "expected": [_storable(each.expected) for each in once_each],
        "found": [_storable(each.found) for each in once_each],
    }
