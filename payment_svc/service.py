"""Everything the rest of the system must know of payment_svc, and what its process is made of."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

from events.decision import Decision
from events.facts.base import DECIMALS, AmountMinor
from events.facts.fulfillment import ShipmentCancelled, ShipmentRejected
from events.facts.inventory import StockReserved
from events.facts.payment import (
    PaymentApproved,
    PaymentCaptured,
    PaymentDeclined,
    PaymentDisputed,
    PaymentHeld,
    PaymentPending,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentRefundPending,
    PaymentRefundReversed,
)
from events.facts.saga import ApprovalExpired, RetryRequested, Settled
from events.runtime.definition import ServiceDefinition
from events.runtime.settings import FromJson
from events.service import Step
from payment_svc import api, webhooks
from payment_svc.decide import DEFAULT, NAME, decide
from payment_svc.gateway import ProviderSettings, gateways_from
from payment_svc.repository import PAYMENTS

DEFAULT_APPROVAL_LIMIT_MINOR = 1_000_000


def _table(given: Any) -> Any:
    return {DEFAULT: given} if isinstance(given, int) else given


def _complete(table: dict[str, int]) -> dict[str, int]:
    if DEFAULT not in table:
        raise ValueError(f"needs an entry {DEFAULT!r}, for every currency that it does not name")
    if unknown := sorted(table.keys() - DECIMALS.keys() - {DEFAULT}):
        raise ValueError(f"ISO 4217 knows no currency {', '.join(unknown)} with a minor unit")
    return table


class PaymentSettings(ProviderSettings):
    """What payment_svc reads besides: above which amount a person has to approve."""

    # 1000000, or by currency: {"default": 1000000, "JPY": 1500000}.
    approval_limit_minor: Annotated[
        dict[str, AmountMinor], NoDecode, AfterValidator(_complete), BeforeValidator(_table), FromJson
    ] = Field(default_factory=lambda: {DEFAULT: DEFAULT_APPROVAL_LIMIT_MINOR})


def _decide_by(settings: PaymentSettings) -> Callable[..., Decision[Any, Any, Any]]:
    return partial(decide, approval_limits_minor=settings.approval_limit_minor, provider=settings.provider)


_REFUNDED = (PaymentRefunded, PaymentDeclined, PaymentRefundFailed)
_REFUNDING = (*_REFUNDED, PaymentRefundPending)
# A payment that fails half-way is undone by payment itself, hence refunds on the way forward.
_CHARGED = (PaymentCaptured, PaymentDeclined, PaymentRefundFailed, PaymentRefundPending)
_CHARGING = (*_CHARGED, PaymentPending)
# For how long a provider may work on what is pending before a person should look: a payment, and a refund.
PENDING_SECONDS, REFUND_PENDING_SECONDS = 86_400.0, 10 * 86_400.0

SERVICE = ServiceDefinition(
    name=NAME,
    position=3,
    decide=partial(decide, approval_limits_minor={DEFAULT: DEFAULT_APPROVAL_LIMIT_MINOR}),
    decide_by=_decide_by,
    repository=PAYMENTS,
    settings=PaymentSettings,
    gateway=gateways_from,
    routers=(api.router, webhooks.router),
    steps=(
        Step(StockReserved, (*_CHARGING, PaymentHeld)),
        Step(PaymentHeld, (PaymentApproved, *_CHARGING), person=True),
        Step(PaymentApproved, _CHARGING),
        Step(ApprovalExpired, (PaymentApproved, *_CHARGING)),
        Step(PaymentPending, (*_CHARGED, PaymentRefunded), deadline_seconds=PENDING_SECONDS),
        Step(ShipmentCancelled, _REFUNDING),
        Step(ShipmentRejected, (PaymentRefunded, PaymentRefundFailed, PaymentRefundPending)),
        Step(PaymentRefundPending, _REFUNDED, deadline_seconds=REFUND_PENDING_SECONDS),
        # An undo that failed for good: a person resolves it, and the chain goes on from there.
        Step(PaymentRefundFailed, (PaymentRefunded, PaymentDeclined), person=True),
        Step(PaymentRefundReversed, (PaymentRefunded, PaymentDeclined), person=True),
        Step(RetryRequested, _REFUNDED),
        Step(Settled, _REFUNDED),
    ),
    # Enough for a party that refuses each of two requests twice, and takes 1.5 s for each.
    step_deadline_seconds=12.0,
    statuses_done=("captured",),
    statuses_undone=("none", "declined", "refunded", "fenced"),
    statuses_after={
        PaymentHeld: ("held",),
        PaymentApproved: (),
        PaymentPending: (),
        PaymentRefundPending: (),
        PaymentDisputed: (),
        PaymentRefundReversed: ("refund_failed",),
        PaymentCaptured: ("captured",),
        PaymentDeclined: ("declined",),
        PaymentRefunded: ("refunded", "fenced"),
        PaymentRefundFailed: ("refund_failed",),
    },
)
