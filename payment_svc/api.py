"""Seeing an order's payment, and deciding about one that is held."""

from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel

from events.facts.base import Note
from events.http.application import Running
from events.http.authentication import VIEWER, Approver, SignedAct
from events.http.limits import StrictRoute
from events.http.problems import FORGOTTEN, Problem
from events.runtime.service_runtime import ServiceRuntime
from payment_svc.decide import APPROVAL_EXPIRED, APPROVAL_REJECTED
from payment_svc.payment import Approve, Payment, Reject
from payment_svc.repository import PAYMENTS

router = APIRouter(prefix="/payments", tags=["payments"], route_class=StrictRoute)

UNKNOWN = {"description": "No payment of such an order is known here"}
NOT_HELD = {"description": "It is not held: it was decided otherwise, or never had to be"}


class PaymentView(BaseModel):
    """An order's money."""

    order_id: UUID
    status: str
    amount_minor: int
    currency: str | None
    reason: str | None
    decided_by: str | None
    decision_note: str | None
    settled_by: str | None


class HoldDecision(SignedAct):
    """Why a held payment is decided about so."""

    note: Note


@router.get("/{order_id}", dependencies=[VIEWER], responses={404: UNKNOWN})
async def see(order_id: UUID, runtime: Running) -> PaymentView:
    """How an order's payment stands."""
    payment = await runtime.database.read(lambda connection: PAYMENTS.read(connection, order_id))
    return _view(payment, order_id)


@router.post(
    "/{order_id}/approve",
    status_code=202,
    responses={404: UNKNOWN, 409: NOT_HELD, 410: FORGOTTEN},
)
async def approve(order_id: UUID, decision: HoldDecision, who: Approver, runtime: Running) -> PaymentView:
    """Let a held payment go ahead. Repeating is harmless; one decided otherwise is refused (409)."""
    return await _settle_hold(runtime, Approve(order_id=order_id, by=who.name, note=decision.note))


@router.post(
    "/{order_id}/reject",
    status_code=202,
    responses={404: UNKNOWN, 409: NOT_HELD, 410: FORGOTTEN},
)
async def reject(order_id: UUID, decision: HoldDecision, who: Approver, runtime: Running) -> PaymentView:
    """Refuse a held payment; the order is then cancelled."""
    return await _settle_hold(runtime, Reject(order_id=order_id, by=who.name, note=decision.note))


async def _settle_hold(runtime: ServiceRuntime, command: Approve | Reject) -> PaymentView:
    payment: Payment | None = await runtime.ask(command)
    view = _view(payment, command.order_id)
    if view.decided_by is None or isinstance(command, Reject) != (view.reason == APPROVAL_REJECTED):
        raise Problem(409, _why_not(view), order_id=str(view.order_id))
    return view


def _why_not(view: PaymentView) -> str:
    if view.reason == APPROVAL_EXPIRED:
        return "the payment is not held: nobody decided about it in time, so it was declined"
    if view.decided_by is None:
        return f"the payment is not held: {view.status}"
    decided = "rejected" if view.reason == APPROVAL_REJECTED else "approved"
    return f"the payment is not held: it was {decided} by {view.decided_by}, and is {view.status}"


def _view(payment: Payment | None, order_id: UUID) -> PaymentView:
    if payment is None:
        raise Problem(404, f"no payment of order {order_id} is known here")
    return PaymentView(**{name: getattr(payment, name) for name in PaymentView.model_fields})
