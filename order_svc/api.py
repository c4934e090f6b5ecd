"""Placing, seeing and cancelling orders over HTTP."""

import hashlib
from typing import Annotated
from uuid import UUID, uuid4, uuid5

from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from events.facts.base import DECIMALS, Line, Lines, OrderCurrency, Token
from events.http.application import Running
from events.http.authentication import OWN_ORDER, Client, Identity
from events.http.limits import StrictRoute
from events.http.problems import FORGOTTEN, Problem
from events.runtime.service_runtime import ServiceRuntime
from events.strict_json import JSON_TYPE
from events.telemetry.log import log
from order_svc.decide import CancelOrder, Order, PlaceOrder
from order_svc.repository import ORDERS

router = APIRouter(prefix="/orders", tags=["orders"], route_class=StrictRoute)

# The order of an Idempotency-Key has an id derived from it, so the same key always means the same order:
# of the same client, where clients are known.
_BY_KEY = UUID("5c2c1d1e-6f0e-4f0a-9a55-0f3f4f9b8c10")

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="Chosen by the client; a retry under the same key places no second order.",
    ),
]
UNKNOWN = {"description": "No such order is known here"}
Asker = Annotated[Identity, OWN_ORDER]
TraceParent = Annotated[str | None, Header(include_in_schema=False)]


class OrderRequest(BaseModel):
    """What a customer orders. Personal data stays elsewhere: a customer is a token."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "customer": "cust_ada",
                "currency": "EUR",
                "payment_token": "tok_ok",
                "lines": [{"sku": "apple", "quantity": 2, "amount_minor": 500}],
            }
        },
    )

    customer: Token
    currency: Annotated[OrderCurrency, Field(json_schema_extra={"enum": sorted(DECIMALS)})]
    payment_token: Token
    lines: Lines


class OrderView(BaseModel):
    """An order as its owner sees it."""

    model_config = ConfigDict(from_attributes=True)

    order_id: UUID
    status: str
    customer: str | None
    currency: str | None
    amount_minor: int
    lines: tuple[Line, ...]
    reason: str | None


@router.post(
    "",
    status_code=202,
    response_model=OrderView,
    responses={
        410: FORGOTTEN,
        422: {"description": "Not a valid order, or its key was used for another order"},
        503: {"description": "Not now: the orders accepted before take too long, or too much waits"},
    },
)
async def place(
    wanted: OrderRequest,
    who: Client,
    request: Request,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Accept an order: from the answer on it is durable and will end, one way or the other.

    Without an Idempotency-Key every request is an order of its own. The same key with another body: 422. Of
    clients with tokens each has keys of its own, and sees and cancels its own orders alone.
    """
    # Not asked for as `Running` and a header, which FastAPI takes as long to find as the order to read.
    runtime: ServiceRuntime = request.app.state.runtime
    runtime.admit()
    fingerprint = hashlib.sha256(wanted.model_dump_json().encode()).hexdigest()
    order_id = uuid4() if idempotency_key is None else _id_of(who.client, idempotency_key)
    command = PlaceOrder(order_id=order_id, fingerprint=fingerprint, client=who.client, **dict(wanted))
    order: Order = await runtime.ask(command, request.headers.get("traceparent"))
    if order.fingerprint != fingerprint:
        raise Problem(422, "this Idempotency-Key was used for another order")
    # Written at once: FastAPI would read it once more, and then write it by the standard library.
    view = OrderView.model_validate(order).model_dump_json()
    return Response(view, 202, {"Location": f"/orders/{order_id}"}, JSON_TYPE)


@router.get("/{order_id}", responses={404: UNKNOWN})
async def see(order_id: UUID, who: Asker, runtime: Running) -> OrderView:
    """How an order stands, as far as order_svc knows; the tracker tells the whole story."""
    return OrderView.model_validate(await _read(order_id, who, runtime))


@router.post(
    "/{order_id}/cancel",
    status_code=202,
    responses={
        404: UNKNOWN,
        409: {"description": "It is confirmed, or undone already: it can no longer be cancelled"},
        410: FORGOTTEN,
    },
)
async def cancel(order_id: UUID, who: Client, runtime: Running, traceparent: TraceParent = None) -> OrderView:
    """Withdraw an order that is not confirmed yet; what was done for it is undone. Repeating is harmless."""
    if who.sees_own_orders_alone:
        await _read(order_id, who, runtime)
    found: Order | None = await runtime.ask(CancelOrder(order_id=order_id), traceparent)
    if found is not None and found.status == "early_undone":
        why = (
            "all that was done for this order is undone already; its order.created has not been received here"
        )
        raise Problem(409, why, order_id=str(order_id))
    order = _known(found, order_id)
    if order.status == "confirmed":
        raise Problem(409, "the order is confirmed; it can no longer be cancelled", order_id=str(order_id))
    if not who.sees_own_orders_alone:
        # Of a customer's cancellation the order tells; that somebody else did it, this line alone.
        log.info("order_cancelled", order_id=str(order_id), by=who.name, signed_in_by=who.signed_in_by)
    return OrderView.model_validate(order)


def _id_of(client: str | None, key: str) -> UUID:
    return uuid5(_BY_KEY if client is None else uuid5(_BY_KEY, client), key)


async def _read(order_id: UUID, who: Identity, runtime: Running) -> Order:
    """To a client, another's order is one that nobody knows: who placed it never changes."""
    order = await runtime.database.read(lambda connection: ORDERS.read(connection, order_id))
    if order is not None and who.sees_own_orders_alone and order.client != who.name:
        order = None
    return _known(order, order_id)


def _known(order: Order | None, order_id: UUID) -> Order:
    if order is None or order.status.startswith("early_"):
        raise Problem(404, f"no order {order_id} is known here")
    return order
