"""Seeing an order's payment, and deciding about one that is held."""

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, StringConstraints

from events.runtime.host import Host
from events.runtime.http import Admin, Problem, Running
from payment_svc.decide import Approve, Payment, Reject
from payment_svc.store import PAYMENTS

router = APIRouter(prefix="/payments", tags=["payments"])


class PaymentView(BaseModel):
    """An order's money."""

    order_id: UUID
    status: str
    amount_minor: int
    currency: str | None
    reason: str | None
    decided_by: str | None
    decision_note: str | None


class HoldDecision(BaseModel):
    """Who decides about a held payment, and why."""

    model_config = ConfigDict(extra="forbid")

    by: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    note: Annotated[str, StringConstraints(min_length=1, max_length=1_000)]


@router.get("/{order_id}")
async def see(order_id: UUID, host: Running) -> PaymentView:
    """How an order's payment stands."""
    async with host.database.transaction() as connection:
        return _view(await PAYMENTS.read(connection, order_id), order_id)


@router.post("/{order_id}/approve", status_code=202, dependencies=[Admin])
async def approve(order_id: UUID, decision: HoldDecision, host: Running) -> PaymentView:
    """Let a held payment go ahead. Repeating is harmless; one decided otherwise is refused (409)."""
    return await _settle_hold(host, Approve(order_id=order_id, by=decision.by, note=decision.note))


@router.post("/{order_id}/reject", status_code=202, dependencies=[Admin])
async def reject(order_id: UUID, decision: HoldDecision, host: Running) -> PaymentView:
    """Refuse a held payment; the order is then cancelled."""
    return await _settle_hold(host, Reject(order_id=order_id, by=decision.by, note=decision.note))


async def _settle_hold(host: Host, command: Approve | Reject) -> PaymentView:
    payment: Payment | None = await host.ask(command)
    view = _view(payment, command.order_id)
    rejected = view.reason == "approval_rejected"
    taken: Literal["approved", "rejected"] | None = None
    if view.decided_by is not None:
        taken = "rejected" if rejected else "approved"
    if taken != ("approved" if isinstance(command, Approve) else "rejected"):
        raise Problem(409, f"the payment is not held: {view.status}", order_id=str(view.order_id))
    return view


def _view(payment: Payment | None, order_id: UUID) -> PaymentView:
    if payment is None:
        raise Problem(404, f"no payment of order {order_id} is known here")
    return PaymentView(**{name: getattr(payment, name) for name in PaymentView.model_fields})
