"""What Stripe says of its own accord, at `POST /webhooks/stripe`.

Its events come more than once, in no order, and late by days. So what is in one counts for nothing but which
payment it is about: that is read again. The event's id is in the inbox in the transaction that asks for it,
and Stripe is answered after the commit. Nothing else of an event is kept.
"""

from uuid import UUID, uuid5

import stripe
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ValidationError
from sqlalchemy import bindparam, select

from events.http.application import Running
from events.http.authentication import PUBLIC
from events.http.limits import StrictRoute
from events.http.problems import Problem
from events.storage.sql import compiled
from payment_svc.gateway import ProviderSettings
from payment_svc.payment import About, Notified
from payment_svc.repository import payments

router = APIRouter(prefix="/webhooks", tags=["webhooks"], route_class=StrictRoute)

# Ids of events as ids of messages.
_EVENTS = UUID("0b6d5c0e-6b3d-4a8e-9a51-9f2f6a2f8f11")
# What may change something that payment has no answer to by itself. All else is taken and left.
ABOUT: dict[str, About] = {
    "payment_intent.amount_capturable_updated": "authorisation",
    "payment_intent.payment_failed": "authorisation",
    "payment_intent.canceled": "authorisation",
    "refund.updated": "refund",
    "refund.failed": "refund",
    "charge.refund.updated": "refund",
    "charge.dispute.created": "dispute",
    "charge.dispute.funds_withdrawn": "dispute",
}
_ORDER_OF = compiled(
    select(payments.c.order_id).where(payments.c.provider_payment == bindparam("provider_payment"))
)


NOT_SIGNED = {"description": "It is not signed by Stripe, or was signed too long ago"}
NO_SECRET = {"description": "No secret of webhooks is set, so none are taken"}


class _Object(BaseModel):
    id: str
    object: str
    payment_intent: str | None = None


class _Data(BaseModel):
    object: _Object


class _Event(BaseModel):
    id: str
    type: str
    data: _Data


@router.post(
    "/stripe",
    status_code=204,
    dependencies=[PUBLIC],
    responses={400: NOT_SIGNED, 404: NO_SECRET},
)
async def stripe_event(request: Request, runtime: Running) -> Response:
    """Take an event. Its signature is what lets it in."""
    settings = runtime.settings
    assert isinstance(settings, ProviderSettings), "payment_svc reads these"
    event = _event_of(await request.body(), request.headers.get("stripe-signature"), settings)
    about = ABOUT.get(event.type)
    if about is None:
        return Response(status_code=204)
    thing = event.data.object
    provider_payment = thing.id if thing.object == "payment_intent" else thing.payment_intent
    found = await runtime.database.rows(_ORDER_OF, provider_payment=provider_payment)
    # Of a payment that is not of here, or whose id is yet to be learned: then nothing is pending.
    for row in found:
        notified = Notified(
            order_id=row["order_id"],
            event_id=uuid5(_EVENTS, event.id),
            provider_payment=provider_payment or "",
            about=about,
        )
        await runtime.ask(notified)
    return Response(status_code=204)


def _event_of(body: bytes, signature: str | None, settings: ProviderSettings) -> _Event:
    """The event. Raises Problem: 404 where there is no secret, 400 for what is not signed, or is no event."""
    if settings.stripe_webhook_secret is None:
        raise Problem(404, "MURMURATION_STRIPE_WEBHOOK_SECRET is not set: no webhooks are taken")
    secret, tolerance = settings.stripe_webhook_secret, settings.stripe_webhook_tolerance_seconds
    try:
        stripe.WebhookSignature.verify_header(body, signature, secret.get_secret_value(), tolerance)
        return _Event.model_validate_json(body)
    except (stripe.SignatureVerificationError, UnicodeDecodeError):
        raise Problem(400, "the signature is missing, wrong or too old") from None
    except ValidationError:
        raise Problem(400, "this is no event with an object") from None
