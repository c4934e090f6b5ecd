"""Payment's way to the payment provider.

`PaymentProvider` is what payment needs of one; write an adapter for yours in the place of
`HttpPaymentProvider`, which speaks to the sandbox. `PaymentGateway` turns calls into outcomes.
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeVar, assert_never
from uuid import UUID

from pydantic import BaseModel, Field, SecretStr, ValidationInfo, field_validator

from events.decision import Outcome
from events.facts.payment import UndoneBy
from events.outbound.dispatcher import CallFailed, Gateway
from events.outbound.http_party import Accepted, HttpAdapter, HttpParty, HttpUrl, OutsideParty, Refused, Reply
from events.runtime.settings import ServiceSettings
from payment_svc.payment import (
    SANDBOX,
    STRIPE,
    AuthorisationDeclined,
    Authorise,
    Authorised,
    Calls,
    Capture,
    Captured,
    CaptureRefused,
    Follow,
    IssueCreditNote,
    Refund,
    Register,
    Results,
    Undone,
    UndoRefused,
    Void,
)
from payment_svc.stripe import StripePayments

ALREADY_REFUNDED = "already_refunded"
ALREADY_CREDITED = "already_credited"


class ProviderSettings(ServiceSettings):
    """What the gateway reads besides: with whom payments are begun, and how to reach each provider.

    Payments that were begun with another one are finished with that, as long as it can be reached.
    """

    provider: Literal["sandbox", "stripe"] = SANDBOX
    provider_url: HttpUrl | None = Field(default=None, validate_default=True)
    # Sent as a bearer token, as most providers want their key.
    provider_token: SecretStr | None = None
    stripe_key: SecretStr | None = Field(default=None, validate_default=True)
    # Where Stripe's API is; a sandbox has a door like it.
    stripe_api: HttpUrl = "https://api.stripe.com"
    # Of the endpoint that takes events; None: there is none, and what is pending is asked for.
    stripe_webhook_secret: SecretStr | None = None
    stripe_webhook_tolerance_seconds: int = Field(default=300, gt=0)

    @field_validator("provider_url")
    @classmethod
    def _where(cls, given: str | None, known: ValidationInfo) -> str | None:
        return _needed(given, SANDBOX, known)

    @field_validator("stripe_key")
    @classmethod
    def _by_which_key(cls, given: SecretStr | None, known: ValidationInfo) -> SecretStr | None:
        return _needed(given, STRIPE, known)


GivenT = TypeVar("GivenT")


def _needed(given: GivenT | None, provider: str, known: ValidationInfo) -> GivenT | None:
    if given is None and known.data.get("provider") == provider:
        raise ValueError(f"needed where payments are begun with {provider}")
    return given


class PaymentProvider(OutsideParty, Protocol):
    """A payment provider, one payment an order. Every method raises CallFailed when another attempt may help.

    `key` is the idempotency key: a repeated request under it is answered as the first and does nothing. An
    undo that finds the money back already is refused as `already_refunded` or `already_credited`.
    """

    async def authorise(
        self, order_id: UUID, amount_minor: int, currency: str, payment_token: str, *, key: str
    ) -> Accepted | Refused:
        """Set the amount aside; refused when the card is declined."""

    async def capture(self, order_id: UUID, *, key: str) -> Accepted | Refused:
        """Take what was authorised."""

    async def void(self, order_id: UUID, *, key: str) -> Accepted | Refused:
        """Let go of it, even of nothing, and decline what comes late; refused once captured."""

    async def refund(self, order_id: UUID, *, key: str) -> Accepted | Refused:
        """Give back what was captured."""

    async def issue_credit_note(self, order_id: UUID, *, key: str) -> Accepted | Refused:
        """Owe what was captured."""

    async def answer_to(self, key: str) -> Accepted | Refused | None:
        """What was answered to an earlier request under this key; None when none was carried out."""


class PaymentGateway:
    """Asks the provider what decide.py wants to know."""

    def __init__(self, provider: PaymentProvider) -> None:
        self._provider = provider

    async def open(self) -> None:
        """Get ready."""
        await self._provider.open()

    async def close(self) -> None:
        """Let go of connections."""
        await self._provider.close()

    async def perform(self, call: Calls) -> Results:
        """Do it. Raises CallFailed when another attempt may help."""
        return outcome_of(call, await self._ask(call))

    async def look_up(self, call: Calls) -> Results | None:
        """What an earlier attempt came to. Raises CallFailed when the provider does not say."""
        answer = await self._provider.answer_to(call.idempotency_key)
        return None if answer is None else outcome_of(call, answer)

    async def _ask(self, call: Calls) -> Accepted | Refused:
        provider, key = self._provider, call.idempotency_key
        match call:
            case Register() | Follow():
                # Nothing has an id here, and nothing is ever pending.
                raise CallFailed(f"nothing_to_{call.name}", maybe_done=False)
            case Authorise():
                return await provider.authorise(
                    call.order_id, call.amount_minor, call.currency, call.payment_token, key=key
                )
            case Capture():
                return await provider.capture(call.order_id, key=key)
            case Void():
                return await provider.void(call.order_id, key=key)
            case Refund():
                return await provider.refund(call.order_id, key=key)
            case IssueCreditNote():
                return await provider.issue_credit_note(call.order_id, key=key)
            case _:
                assert_never(call)


def outcome_of(call: Calls, answer: Accepted | Refused) -> Results:
    """What the provider's answer means to decide.py."""
    refused = answer.reason if isinstance(answer, Refused) else None
    match call:
        case Register() | Follow() | Authorise():
            return Authorised() if refused is None else AuthorisationDeclined(refused)
        case Capture():
            return Captured() if refused is None else CaptureRefused(refused)
        case Void() | Refund() | IssueCreditNote():
            # Somebody gave the money back at the provider's own desk: then it is back.
            if refused == ALREADY_REFUNDED:
                return Undone("refund")
            if refused == ALREADY_CREDITED:
                return Undone("credit_note")
            return Undone(_means_of(call)) if refused is None else UndoRefused(call, refused)
        case _:
            assert_never(call)


class HttpPaymentProvider(HttpAdapter):
    """The sandbox's provider, in the manner of Adyen and Stripe."""

    async def authorise(
        self, order_id: UUID, amount_minor: int, currency: str, payment_token: str, *, key: str
    ) -> Accepted | Refused:
        """201 or 402."""
        body = {
            "reference": str(order_id),
            "amount_minor": amount_minor,
            "currency": currency,
            "payment_token": payment_token,
        }
        return await self._post("/authorisations", body, key)

    async def capture(self, order_id: UUID, *, key: str) -> Accepted | Refused:
        """201 or 409."""
        return await self._post("/captures", {"reference": str(order_id)}, key)

    async def void(self, order_id: UUID, *, key: str) -> Accepted | Refused:
        """201 or 409."""
        return await self._post("/voids", {"reference": str(order_id)}, key)

    async def refund(self, order_id: UUID, *, key: str) -> Accepted | Refused:
        """201 or 409."""
        return await self._post("/refunds", {"reference": str(order_id)}, key)

    async def issue_credit_note(self, order_id: UUID, *, key: str) -> Accepted | Refused:
        """201 or 409."""
        return await self._post("/credit-notes", {"reference": str(order_id)}, key)

    async def answer_to(self, key: str) -> Accepted | Refused | None:
        """200 with the recorded answer, or 404."""
        reply = await self._party.earlier_answer(key)
        return None if reply is None else _read(reply)

    async def _post(self, path: str, body: dict[str, Any], key: str) -> Accepted | Refused:
        return _read(await self._party.post(path, body, idempotency_key=key))


class _Answer(BaseModel):
    status: str
    reason: str = "unknown"


def _read(reply: Reply) -> Accepted | Refused:
    answer = reply.read_as(_Answer)
    if reply.http_status == 201:
        return Accepted()
    if reply.http_status in (402, 409) and answer.status in ("declined", "refused"):
        return Refused(answer.reason)
    raise reply.unexpected()


def _means_of(call: Void | Refund | IssueCreditNote) -> UndoneBy:
    match call:
        case Void():
            return "void"
        case Refund():
            return "refund"
        case IssueCreditNote():
            return "credit_note"
        case _:
            assert_never(call)


class Providers:
    """The gateway to all providers that can be reached: each call goes to the one that it names."""

    def __init__(self, gateways: Mapping[str, Gateway[Calls]]) -> None:
        self._gateways = gateways

    async def open(self) -> None:
        """Get ready."""
        for gateway in self._gateways.values():
            await gateway.open()

    async def close(self) -> None:
        """Let go of connections."""
        for gateway in self._gateways.values():
            await gateway.close()

    async def perform(self, call: Calls) -> Outcome:
        """Do it. Raises CallFailed when another attempt may help."""
        return await self._of(call).perform(call)

    async def look_up(self, call: Calls) -> Outcome | None:
        """What an earlier attempt came to. Raises CallFailed when the provider does not say."""
        return await self._of(call).look_up(call)

    def _of(self, call: Calls) -> Gateway[Calls]:
        gateway = self._gateways.get(call.provider)
        if gateway is None:
            raise CallFailed(f"{call.provider}_not_configured", maybe_done=False)
        return gateway


def gateways_from(settings: ProviderSettings) -> Gateway[Calls]:
    """The way to every provider that the settings say how to reach."""
    gateways: dict[str, Gateway[Calls]] = {}
    if settings.provider_url is not None:
        gateways[SANDBOX] = gateway_from(settings)
    if settings.stripe_key is not None:
        gateways[STRIPE] = stripe_from(settings, settings.stripe_key)
    return Providers(gateways)


def gateway_from(settings: ProviderSettings) -> PaymentGateway:
    """The gateway to a provider that speaks the sandbox's protocol."""
    assert settings.provider_url is not None, "checked by whoever asks"
    provider = HttpParty("provider", settings.provider_url, settings, bearer_token=settings.provider_token)
    return PaymentGateway(HttpPaymentProvider(provider))


def stripe_from(settings: ProviderSettings, key: SecretStr) -> StripePayments:
    """The gateway to Stripe."""
    base_url = settings.stripe_api.rstrip("/")
    return StripePayments(HttpParty("stripe", base_url, settings), base_url, key.get_secret_value())
