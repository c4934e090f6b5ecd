"""An order's payment by way of an adapter, whichever it is: what the suite asks for and what it sees."""

from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID, uuid4

from events.decision import Outcome
from events.outbound.dispatcher import CallFailed, Gateway
from payment_svc.payment import (
    REGISTERS,
    Authorise,
    Calls,
    Capture,
    IssueCreditNote,
    Refund,
    Register,
    Registered,
    Void,
)
from tests.gateways.world import carry_out

AMOUNT_MINOR = 1250
CallT = TypeVar("CallT", bound=Capture | Void | Refund | IssueCreditNote)


@dataclass
class Paying:
    """One order's payment with one provider."""

    gateway: Gateway[Calls]
    provider: str
    token: str = "tok_ok"
    amount_minor: int = AMOUNT_MINOR
    currency: str = "EUR"
    order_id: UUID = field(default_factory=uuid4)
    provider_payment: str | None = None

    @property
    def registration(self) -> Register:
        return Register(
            order_id=self.order_id,
            provider=self.provider,
            amount_minor=self.amount_minor,
            currency=self.currency,
            payment_token=self.token,
        )

    @property
    def authorisation(self) -> Authorise:
        return Authorise(
            order_id=self.order_id,
            provider=self.provider,
            provider_payment=self.provider_payment,
            amount_minor=self.amount_minor,
            currency=self.currency,
            payment_token=self.token,
        )

    def call(self, kind: type[CallT], number: int = 1) -> CallT:
        return kind(
            order_id=self.order_id,
            provider=self.provider,
            provider_payment=self.provider_payment,
            round=number,
        )

    @property
    def fence(self) -> Void:
        """The void of a payment of which nobody knows whether it was ever begun."""
        registers = self.provider in REGISTERS
        return Void(
            order_id=self.order_id,
            provider=self.provider,
            registration=self.registration if registers else None,
        )

    async def register(self) -> Outcome | None:
        """None once it is registered, or need not be; what it came to otherwise."""
        if self.provider not in REGISTERS:
            return None
        outcome = await self.gateway.perform(self.registration)
        if isinstance(outcome, Registered):
            self.provider_payment = outcome.provider_payment
            return None
        return outcome

    async def authorise(self) -> Outcome:
        return await self.register() or await self.gateway.perform(self.authorisation)

    async def captured(self) -> "Paying":
        """The same, once its money was taken."""
        await self.authorise()
        await self.gateway.perform(self.call(Capture))
        return self

    async def carry_out(self, call: Calls) -> tuple[Outcome | None, list[CallFailed]]:
        """As the runtime does it: look-ups, and attempts under one key."""
        return await carry_out(self.gateway, call)
