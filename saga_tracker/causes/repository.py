"""Keeps why sagas wait, as their services said last."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from events.storage.database import Connection
from saga_tracker.causes.cause import Cause

# A message that failed and a lock are known to one instance alone: if another says nothing, that says little.
INSTANCE_SECONDS = 30.0
MAX_SWEPT = 5_000

# Those first that are late next, then those that have waited longest; a few more than are asked for, for not
# all of them wait for long.
_WAITING = b"""
    SELECT order_id, waits FROM (
        (SELECT order_id, waits FROM sagas WHERE due_at IS NOT NULL ORDER BY due_at LIMIT %(row_limit)s)
        UNION ALL
        (SELECT order_id, waits FROM sagas WHERE ended_at IS NULL ORDER BY since LIMIT %(row_limit)s)
    ) AS found WHERE jsonb_array_length(waits) > 0
"""
_NOW = b"SELECT clock_timestamp() AS now"
_KEEP = b"""
    INSERT INTO causes (order_id, service, because_of_id, cause)
    SELECT * FROM unnest(
        %(order_ids)b::uuid[], %(services)b::text[], %(because_of_ids)b::uuid[], %(causes)s::jsonb[])
    ORDER BY 1, 2
    ON CONFLICT (order_id, service) DO UPDATE
    SET because_of_id = excluded.because_of_id, cause = excluded.cause, known_at = now()
"""
_DROP = b"""
    DELETE FROM causes USING unnest(%(order_ids)b::uuid[], %(services)b::text[]) AS gone (order_id, service)
    WHERE causes.order_id = gone.order_id AND causes.service = gone.service AND reason IS NULL
      AND (cause ->> 'kind' NOT IN ('message', 'lock')
        OR known_at < now() - make_interval(secs => %(instance_seconds)s))
"""
_OF = b"""
    SELECT order_id, service, because_of_id, cause FROM causes WHERE order_id = ANY(%(order_ids)b)
"""
_SAY = b"""
    INSERT INTO causes (order_id, service, because_of_id, cause, reason)
    VALUES (%(order_id)s, %(service)s, %(because_of_id)s, '{}', %(reason)s)
    ON CONFLICT (order_id, service) DO UPDATE SET reason = coalesce(causes.reason, excluded.reason)
    RETURNING reason
"""
_SWEEP = b"""
    DELETE FROM causes WHERE (order_id, service) IN (
        SELECT order_id, service FROM causes
        WHERE known_at < greatest(
            now() - make_interval(secs => %(keep_seconds)s),
            (SELECT known_at FROM causes ORDER BY known_at DESC OFFSET %(max_rows)s LIMIT 1))
        ORDER BY known_at LIMIT %(row_limit)s FOR UPDATE SKIP LOCKED)
"""


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


async def keep(connection: Connection, found: Sequence[Found]) -> None:
    """Keep what was found, and forget what is over."""
    known = {(one.order_id, one.service): one for one in found}.values()
    if there := [one for one in known if one.cause is not None]:
        await connection.execute(
            _KEEP,
            {
                "order_ids": [one.order_id for one in there],
                "services": [one.service for one in there],
                "because_of_ids": [one.because_of_id for one in there],
                "causes": [one.cause.model_dump_json() for one in there if one.cause],
            },
        )
    if over := [one for one in known if one.cause is None]:
        given = {"order_ids": [one.order_id for one in over], "services": [one.service for one in over]}
        await connection.execute(_DROP, {**given, "instance_seconds": INSTANCE_SECONDS})


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
    """What was said of it when it was late for the first time: this, unless something was."""
    given = {"order_id": order_id, "service": service, "because_of_id": because_of_id, "reason": reason}
    row = await (await connection.execute(_SAY, given)).fetchone()
    return str(row["reason"]) if row else reason


async def sweep(connection: Connection, keep_seconds: float, max_rows: int) -> int:
    """Forget what is old, or too much; says how many."""
    given = {"keep_seconds": keep_seconds, "max_rows": max_rows, "row_limit": MAX_SWEPT}
    return (await connection.execute(_SWEEP, given)).rowcount


def _cause(kept: Mapping[str, Any]) -> Cause | None:
    """None of what another release wrote, and where there is only a reason."""
    try:
        return Cause.model_validate(kept) if kept else None
    except ValidationError:
        return None
