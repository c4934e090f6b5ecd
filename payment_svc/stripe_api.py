"""Stripe's objects as far as they are read, how they are fetched, and what its errors mean."""

from collections.abc import Awaitable, Mapping
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qsl

import stripe
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from events.facts.base import DECIMALS
from events.outbound.dispatcher import CallFailed
from events.outbound.http_party import FORM, HttpParty
from payment_svc.payment import (
    AuthorisationDeclined,
    Authorised,
    Captured,
    CaptureRefused,
    Pending,
    Register,
    Results,
)

PARTY = "stripe"
PAGE = 100
METHODS_KEPT = 1_000
# Of a customer's credit: what is older than the payment has nothing to do with it, and is not read.
MAX_PAGES = 50
EXPIRED = "authorisation_expired"
REFUND_PENDING = "refund_pending"
CANCELABLE = frozenset(
    {"requires_payment_method", "requires_confirmation", "requires_action", "requires_capture"}
)
UNKNOWN_METHOD = "unknown_payment_method"
ALREADY_REFUNDED = "charge_already_refunded"
# An InvalidRequestError of these codes says something about this payment. Any other is a mistake of ours, or
# of the account's settings, and no reason to turn customers away.
REFUSALS = frozenset(
    {
        "amount_too_large",
        "amount_too_small",
        "payment_intent_authentication_failure",
        "payment_intent_incompatible_payment_method",
        "payment_intent_payment_attempt_failed",
        "payment_method_provider_decline",
        "payment_method_unactivated",
        "payment_method_unexpected_state",
    }
)
# Not refused for good, and nothing to replace by a credit note: of a disputed charge the customer's bank has
# the money, and whoever gives it back as well gives it twice.
NOT_NOW = frozenset({"charge_disputed", "balance_insufficient"})

# Stripe counts in ISO 4217's minor units, but for these currencies, of which it has so many decimals.
DECIMALS_THERE = {"ISK": 2, "UGX": 2, "MGA": 0}
NOT_CHARGEABLE = "amount_not_chargeable"

ObjectT = TypeVar("ObjectT", bound=BaseModel)
# Where nobody ever set any, Stripe says null.
Marks = Annotated[dict[str, str], BeforeValidator(lambda given: {} if given is None else given)]


class Error(BaseModel):
    code: str | None = None
    decline_code: str | None = None


class Charge(BaseModel):
    id: str
    disputed: bool = False


class Intent(BaseModel):
    """As much of a PaymentIntent as is read."""

    id: str
    status: Literal[
        "requires_payment_method",
        "requires_confirmation",
        "requires_action",
        "processing",
        "requires_capture",
        "succeeded",
        "canceled",
    ]
    amount: int
    amount_received: int = 0
    currency: str
    created: int
    customer: str | None = None
    cancellation_reason: str | None = None
    last_payment_error: Error | None = None
    latest_charge: Charge | str | None = None


class RefundObject(BaseModel):
    id: str
    status: Literal["pending", "requires_action", "succeeded", "failed", "canceled"]
    failure_reason: str | None = None
    metadata: Marks = Field(default_factory=dict)


class Credit(BaseModel):
    id: str
    created: int
    metadata: Marks = Field(default_factory=dict)


class Method(BaseModel):
    id: str
    customer: str | None = None


class Page(BaseModel):
    data: list[dict[str, Any]]
    has_more: bool


class Transport(stripe.HTTPClient):
    """How Stripe's package speaks HTTP here: by our own party, with its circuit, its bounds and its spans.

    Whatever that calls a failure goes through the package as it is.
    """

    name = "murmuration"

    def __init__(self, party: HttpParty, base_url: str) -> None:
        super().__init__()
        self._party = party
        self._base_url = base_url

    async def request_async(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: Any = None,
        **_more: Any,
    ) -> tuple[Any, int, Mapping[str, str]]:
        """Status and content of the answer. Raises CallFailed."""
        path, _, query = url.removeprefix(self._base_url).partition("?")
        reply = await self._party.request(
            method.upper(),
            path,
            query=parse_qsl(query, keep_blank_values=True),
            headers=headers,
            content=post_data.encode() if post_data is not None else None,
            content_type=FORM,
        )
        return reply.content, reply.http_status, {}


def amount_there(amount_minor: int, currency: str) -> int | None:
    """An amount in Stripe's units; None for one that it cannot charge.

    See "Special cases" and "Three-decimal currencies" in Stripe's document of currencies: of three decimals
    the last one must be 0.
    """
    decimals = DECIMALS.get(currency, 2)
    there = DECIMALS_THERE.get(currency, decimals)
    amount, rest = divmod(amount_minor * 10**there, 10**decimals)
    return None if rest or (decimals == 3 and amount % 10) else amount


async def read(kind: type[ObjectT], asking: Awaitable[stripe.StripeObject]) -> ObjectT:
    return parsed(kind, (await asking).to_dict())


class Methods:
    """Orders' PaymentMethods as they were read: a registration that is repeated reads its own once.

    Under a limit of requests, each one that need not be repeated is a better chance for the next.
    """

    def __init__(self, client: stripe.V1Services) -> None:
        self._client = client
        self._read: dict[str, Method] = {}

    async def of(self, call: Register) -> Method:
        """Raises what Stripe's package raises, or CallFailed."""
        known = self._read.get(call.idempotency_key)
        if known is None:
            asking = self._client.payment_methods.retrieve_async(call.payment_token)
            known = await read(Method, asking)
            while len(self._read) >= METHODS_KEPT:
                self._read.pop(next(iter(self._read)))
            self._read[call.idempotency_key] = known
        return known


def parsed(kind: type[ObjectT], content: Mapping[str, Any]) -> ObjectT:
    try:
        return kind.model_validate(content)
    except ValidationError:
        raise CallFailed(f"{PARTY}_answered_nonsense", maybe_done=True) from None


def why_declined(error: stripe.CardError) -> str:
    body = error.error
    return declined(error.code, getattr(body, "decline_code", None))


def declined(code: str | None, decline_code: str | None) -> str:
    specific = decline_code if decline_code not in (None, "generic_decline") else code
    return specific or "card_declined"


def refusal(error: stripe.InvalidRequestError, otherwise: str | None = None) -> str:
    """The code of a refusal. Raises the error where it says nothing of this payment."""
    if error.code in REFUSALS or (otherwise and error.code is not None):
        return error.code or ""
    if otherwise is not None:
        return otherwise
    raise error


def is_elsewhere(error: stripe.InvalidRequestError) -> bool:
    """Whether the payment is further than the request knew: it says itself where it stands."""
    return error.code == "payment_intent_unexpected_state"


def failure_of(error: stripe.StripeError) -> CallFailed:
    """What another attempt may help with. 5xx, 429 and lost answers never get here: the party raises them."""
    status = error.http_status
    reason = error.code if isinstance(error, stripe.InvalidRequestError) and error.code else status
    # A request under the same key is under way elsewhere, or the answer was no JSON.
    maybe_done = status is None or status < 300 or status == 409
    return CallFailed(f"{PARTY}_answered_{reason}", maybe_done=maybe_done)


def from_after(after: str | None) -> dict[str, str]:
    return {} if after is None else {"starting_after": after}


def authorisation_in(intent: Intent) -> Results | None:
    """What became of its authorisation; None where nobody asked for that yet."""
    error = intent.last_payment_error
    match intent.status:
        case "requires_capture" | "succeeded":
            return Authorised()
        case "requires_payment_method" if error is not None:
            return AuthorisationDeclined(declined(error.code, error.decline_code))
        case "requires_action":
            return AuthorisationDeclined("authentication_required")
        case "canceled":
            return AuthorisationDeclined(_why_canceled(intent))
        case "processing":
            return Pending("processing")
        case "requires_payment_method" | "requires_confirmation":
            return None


def capture_in(intent: Intent) -> Results | None:
    """What became of its capture; None where it may still be captured."""
    if intent.status == "succeeded":
        return Captured()
    return CaptureRefused(_why_canceled(intent)) if intent.status == "canceled" else None


def _why_canceled(intent: Intent) -> str:
    # Stripe cancels what nobody captured within the days that the network allows.
    return EXPIRED if intent.cancellation_reason == "automatic" else "voided"
