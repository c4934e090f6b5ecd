"""`/causes`: why orders wait at a service, asked by the tracker of those that wait for long.

Calls to the outside, and facts that the broker refuses, are in the tables, whichever instance works them off;
messages that failed and locks are known to the instance that met them. Of whom it is asked that knows
nothing, it says nothing: then the message has not come yet, or another instance has it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel
from sqlalchemy import bindparam, select

from events.decision import Call
from events.http.application import Running
from events.http.authentication import VIEWER
from events.http.limits import StrictRoute
from events.outbound.circuit import BREAKERS
from events.outbound.dispatcher import schedules_of
from events.runtime.causes import MAX_ERROR_CHARACTERS, Cause
from events.runtime.service_runtime import ServiceRuntime
from events.storage.database import AWAY, Connection, Locked
from events.storage.sql import array_of, compiled
from events.storage.tables import calls, outbox

MAX_ORDERS = 200
# Whoever asks does not wait for a database that is away.
DATABASE_SECONDS = 1.0
CIRCUIT_OPEN = "_circuit_open"

OrderIds = Annotated[
    list[UUID], Query(max_length=MAX_ORDERS, description="Repeated, once for each order; or none.")
]
_CALLS = compiled(
    select(
        *(calls.c.order_id, calls.c.name, calls.c.attempts, calls.c.last_error),
        *(calls.c.asked_at, calls.c.due_at),
    )
    .where(calls.c.order_id == array_of("order_ids", calls.c.order_id).any_())
    .order_by(calls.c.last_error.is_(None), calls.c.attempts.desc(), calls.c.call_id)
    .limit(bindparam("row_limit"))
)
_REFUSED = compiled(
    select(
        *(outbox.c.order_id, outbox.c.wire_name, outbox.c.refusals, outbox.c.stated_at, outbox.c.due_at),
    )
    .where(outbox.c.order_id == array_of("order_ids", outbox.c.order_id).any_(), outbox.c.due_at.is_not(None))
    .limit(bindparam("row_limit"))
)


class OrderCauses(BaseModel):
    """Why these orders wait, by order, what says most first; and why no order goes on, if so."""

    orders: dict[UUID, list[Cause]]
    service: list[Cause]


router = APIRouter(tags=["states"], route_class=StrictRoute)


@router.get("/causes", dependencies=[VIEWER])
async def causes(runtime: Running, order_id: OrderIds = []) -> OrderCauses:  # noqa: B006 - it is read only
    """Why these orders have not been answered, as far as it is known here; no secret, customer or amount."""
    found: dict[UUID, list[Cause]] = {}
    for_all = runtime.causes_for_all()
    if order_id:
        for one, cause in runtime.causes.of(order_id).items():
            session = runtime.lock_session if cause.kind == "lock" else None
            found.setdefault(one, []).append(replace(cause, session=session))
        try:
            async with asyncio.timeout(DATABASE_SECONDS):
                rows = await runtime.database.read(lambda connection: _in_tables(connection, order_id))
        except (TimeoutError, Locked, *AWAY):
            if not any(cause.kind == "database" for cause in for_all):
                now = datetime.now(UTC)
                for_all.append(Cause("database", "any transaction", now, party="database", error="away"))
        else:
            for row in rows[0]:
                found.setdefault(row["order_id"], []).append(_of_call(row, runtime))
            for row in rows[1]:
                found.setdefault(row["order_id"], []).append(_of_refusal(row))
    return OrderCauses(orders=found, service=for_all)


async def _in_tables(
    connection: Connection, order_ids: Sequence[UUID]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    given = {"order_ids": list(order_ids), "row_limit": 2 * MAX_ORDERS}
    under_way = await (await connection.execute(_CALLS, given)).fetchall()
    return under_way, await (await connection.execute(_REFUSED, given)).fetchall()


def _of_call(row: dict[str, Any], runtime: ServiceRuntime) -> Cause:
    """A call that is under way, or is to be tried again."""
    kind: type[Call] | None = runtime.service.calls.get(row["name"])
    error: str | None = row["last_error"]
    party = _party(error, runtime.service.parties)
    breaker = BREAKERS.get(party or "")
    if error is not None and breaker is not None and error.endswith(CIRCUIT_OPEN):
        error = breaker.last_error or error
    waits = row["due_at"] > datetime.now(UTC)
    return Cause(
        "call",
        row["name"],
        row["asked_at"],
        party=party,
        # The one that is under way counts, too.
        attempt=row["attempts"] + (0 if waits else 1),
        of=schedules_of(runtime.settings)[kind.retry_policy].attempts if kind else None,
        error=error[:MAX_ERROR_CHARACTERS] if error else None,
        next_attempt_at=row["due_at"] if waits else None,
        circuit=breaker.state if breaker else None,
    )


def _party(error: str | None, parties: Sequence[str]) -> str | None:
    """Whom a call goes to: the only one that the service calls, or the one that the error names."""
    known = sorted({*parties, *BREAKERS}, key=len, reverse=True)
    for party in known if error else ():
        if error and error.startswith((f"{party}_", f"{party.partition('_')[0]}_")):
            return party
    return known[0] if len(known) == 1 else None


def _of_refusal(row: dict[str, Any]) -> Cause:
    """A fact of the order that the broker does not take: a queue is full, or nobody is bound to it."""
    return Cause(
        "publish",
        row["wire_name"],
        row["stated_at"],
        party="broker",
        attempt=row["refusals"],
        error="refused",
        next_attempt_at=row["due_at"],
    )
