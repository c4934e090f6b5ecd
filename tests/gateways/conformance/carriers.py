"""An order's shipment by way of an adapter, whichever it is: what the suite asks for and what it sees."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID, uuid4

from events.decision import Outcome
from events.facts.base import Line
from events.outbound.dispatcher import CallFailed, Gateway
from fulfillment_svc.shipment import (
    PREPARES,
    BookShipment,
    Calls,
    CancelShipment,
    DispatchShipment,
    FollowRefund,
    Prepared,
    PrepareShipment,
    RefundEnded,
    RefundPending,
    Unbooked,
)
from tests.gateways.world import carry_out
from tests.runtime.eventually import eventually

LINES = (Line(sku="kettle", quantity=2, amount_minor=5000), Line(sku="cup", quantity=1, amount_minor=900))
CallT = TypeVar("CallT", bound=CancelShipment | DispatchShipment)


@dataclass
class Shipping:
    """One order's shipment with one carrier."""

    gateway: Gateway[Calls]
    carrier: str
    customer: str = "cust_1"
    order_id: UUID = field(default_factory=uuid4)
    carrier_shipment: str | None = None

    @property
    def preparation(self) -> PrepareShipment:
        return PrepareShipment(
            order_id=self.order_id, carrier=self.carrier, customer=self.customer, lines=LINES
        )

    @property
    def booking(self) -> BookShipment:
        return BookShipment(
            order_id=self.order_id,
            carrier=self.carrier,
            carrier_shipment=self.carrier_shipment,
            customer=self.customer,
            lines=LINES,
        )

    def call(self, kind: type[CallT], number: int = 1) -> CallT:
        return kind(
            order_id=self.order_id,
            carrier=self.carrier,
            carrier_shipment=self.carrier_shipment,
            round=number,
        )

    def follow(self, until: datetime | None = None) -> FollowRefund:
        return FollowRefund(
            order_id=self.order_id,
            carrier=self.carrier,
            carrier_shipment=self.carrier_shipment,
            until=until or datetime.now(UTC),
        )

    async def prepare(self) -> Outcome | None:
        """None once it is prepared, or need not be; what it came to otherwise."""
        if self.carrier not in PREPARES:
            return None
        outcome, _ = await self.carry_out(self.preparation)
        if isinstance(outcome, Prepared):
            self.carrier_shipment = outcome.carrier_shipment
            return None
        return outcome

    async def book(self) -> Outcome:
        return await self.prepare() or await self.gateway.perform(self.booking)

    async def booked(self) -> "Shipping":
        """The same, once it was booked."""
        await self.book()
        return self

    async def carry_out(self, call: Calls) -> tuple[Outcome | None, list[CallFailed]]:
        """As the runtime does it: look-ups, and attempts under one key."""
        return await carry_out(self.gateway, call)

    async def is_let_go(self, outcome: Outcome | None) -> bool:
        """Whether a cancellation ended well: at once, or pending until the label's money is back."""
        if isinstance(outcome, RefundPending):
            return await self.end_of_refund() == RefundEnded()
        return outcome == Unbooked()

    async def end_of_refund(self) -> Outcome:
        """Asked for as the runtime does it, until it is no longer pending."""
        return await eventually(lambda: self.gateway.perform(self.follow()), why="the end of a refund")
