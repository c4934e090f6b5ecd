"""`/causes`: why orders wait at a service, asked by the tracker of those that wait for long; and `/outside`.

Calls to the outside, and facts that the broker refuses, are in the tables, whichever instance works them off;
messages that failed and locks are known to the instance that met them. Of whom it is asked that knows
nothing, it says nothing: then the message has not come yet, or another instance has it.

`/outside` is what the party outside says now of the calls that failed for good, for the person who is to see
to it: looked up under the keys that they had, and nothing is done.
"""

import asyncio
import contextlib
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ValidationError
from sqlalchemy import bindparam, select

from events.decision import Call, CausalityViolated, Contradiction, Outcome
from events.facts.saga import RetryRequested
from events.http.application import Running
from events.http.authentication import MACHINE, VIEWER
from events.http.limits import StrictRoute
from events.outbound.circuit import BREAKERS
from events.outbound.dispatcher import CallFailed, Gateway, schedules_of
from events.runtime.causes import MAX_ERROR_CHARACTERS, Cause
from events.runtime.service_runtime import ServiceRuntime
from events.storage.database import AWAY, Connection, Locked
from events.storage.repository import OrderRepository
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
        *(calls.c.call_id, calls.c.order_id, calls.c.name, calls.c.attempts, calls.c.last_error),
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
        failed_at=runtime.failed_at(row["call_id"]),
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


# --- What the parties outside say of what failed

MAX_OUTSIDE = 10
FailedOrders = Annotated[
    list[UUID], Query(min_length=1, max_length=MAX_OUTSIDE, description="Repeated, once for each order.")
]


class ReportedOutside(BaseModel):
    """What a party says now of a call for an order that failed: its `answer` to the last one of that name.

    With an `error` it does not say.
    """

    call: str
    party: str | None
    answer: str | None = None
    error: str | None = None


class ReportsOfOrders(BaseModel):
    """By order, what is known outside of its calls, without those that nobody there ever saw."""

    orders: dict[UUID, list[ReportedOutside]]


@router.get("/outside", dependencies=[MACHINE])
async def outside(runtime: Running, order_id: FailedOrders) -> ReportsOfOrders:
    """What the parties outside say of the calls for these orders, if something failed for them for good."""
    gateway = runtime.gateway
    if gateway is None or RetryRequested not in runtime.service.subscribes_to:
        return ReportsOfOrders(orders={})
    failed = await runtime.database.read(lambda connection: _failed(connection, runtime, order_id))
    reported = await asyncio.gather(
        *(_look_up(gateway, runtime, call) for again in failed for call in _calls_like(again, runtime))
    )
    orders: dict[UUID, list[ReportedOutside]] = {again.order_id: [] for again in failed}
    for order, one in reported:
        if one is not None:
            orders[order].append(one)
    return ReportsOfOrders(orders=orders)


async def _failed(connection: Connection, runtime: ServiceRuntime, order_ids: Sequence[UUID]) -> list[Call]:
    """Of orders for which something failed: the call that a person's request would have it make."""
    service, found = runtime.service, list[Call]()
    if not isinstance(service.repository, OrderRepository):
        return found
    for order_id in dict.fromkeys(order_ids):
        state = await service.repository.read(connection, order_id)
        again = RetryRequested(order_id=order_id, service=service.name, by="nobody", note="only looked up")
        with contextlib.suppress(CausalityViolated, Contradiction):
            found += service.decide(state, again).calls[:1]
    return found


def _calls_like(again: Call, runtime: ServiceRuntime) -> list[Call]:
    """Every call of that round which the order alone makes, to whom that one goes: keys hold no more."""
    found: list[Call] = []
    for kind in runtime.service.calls.values():
        # The round, with which of several carriers it was begun, and what that one calls it.
        alike = {
            name: getattr(again, name)
            for name, field in kind.model_fields.items()
            if not field.is_required() and name in type(again).model_fields
        }
        with contextlib.suppress(ValidationError):
            found.append(kind(order_id=again.order_id, **alike))
    return found


async def _look_up(
    gateway: Gateway[Call], runtime: ServiceRuntime, call: Call
) -> tuple[UUID, ReportedOutside | None]:
    parties = runtime.service.parties
    # What was refused for good is tried again in a round of its own, which nobody has been asked for yet.
    rounds = range(call.round, max(0, call.round - 2), -1)
    answer: Outcome | None = None
    error = None
    try:
        async with asyncio.timeout(runtime.settings.call_timeout_seconds):
            for one in rounds:
                answer = answer or await gateway.look_up(call.model_copy(update={"round": one}))
    except TimeoutError:
        error = "timeout"
    except CallFailed as failure:
        error = failure.reason
    if answer is None and error is None:
        return call.order_id, None
    reported = ReportedOutside(
        call=call.name,
        party=_party(error, parties) if error else call.party or _party(None, parties),
        answer=_in_words(answer) if answer else None,
        error=error,
    )
    return call.order_id, reported


def _in_words(outcome: Outcome) -> str:
    """Its name and the words in it, such as `undo refused, already_refunded`."""
    name = re.sub(r"(?<!^)(?=[A-Z])", " ", type(outcome).__name__).lower()
    parts = [getattr(outcome, part) for part in type(outcome).__match_args__]
    return ", ".join([name, *(part for part in parts if isinstance(part, str))])
