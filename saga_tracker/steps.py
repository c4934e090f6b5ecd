"""What comes next: after each fact, whose turn it is and what that service may answer.

Every fact that a service subscribes to is in this table: its answer is the sign that it heard it, and without
that sign it is sent the fact once more. A test holds the table against the types of the five services'
`decide`, so that it cannot drift.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from events.facts.base import Fact
from events.facts.fulfillment import (
    ShipmentCancelFailed,
    ShipmentCancelled,
    ShipmentDispatched,
    ShipmentDispatchFailed,
    ShipmentRejected,
    ShipmentScheduled,
)
from events.facts.inventory import StockRejected, StockReleased, StockReserved, StockSold
from events.facts.notification import CustomerNotified, NotificationFailed
from events.facts.order import OrderCancelled, OrderConfirmed, OrderCreated, OrderWithdrawn
from events.facts.payment import (
    PaymentApproved,
    PaymentCaptured,
    PaymentDeclined,
    PaymentHeld,
    PaymentRefunded,
    PaymentRefundFailed,
)
from events.facts.saga import ApprovalExpired, RetryRequested, SagaTimedOut, Settled


@cache
def name_of(kind: type[Fact] | str) -> str:
    """A fact's name without its version, as people say it: `payment.captured`. Takes wire names too."""
    wire_name = kind if isinstance(kind, str) else kind.wire_name
    return wire_name.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class Step:
    """After `heard` it is `service`'s turn; any one of `answers` ends the turn.

    `person`: the service has done its part, and what it is to state next depends on a person. `since`: a step
    that was added to a choreography which runs is not owed for what was heard before, so what ended stays
    ended; and late, its service is also asked, for a replica of the release before does it and does not state
    it. `knowing`: what it cannot answer without, so that its answer is the sign of both, and late both are
    sent once more.
    """

    heard: type[Fact]
    service: str
    answers: tuple[type[Fact], ...]
    person: bool = False
    since: datetime | None = None
    knowing: type[Fact] | None = None

    def owed_for(self, read_at: datetime, stated_at: datetime | None = None) -> bool:
        """Whether it is owed for a fact that was first read then, and stated then if that is known.

        A tracker that lost its database reads old facts today: they are old all the same.
        """
        return self.since is None or min(read_at, stated_at or read_at) >= self.since

    @property
    def own(self) -> bool:
        """Whether it goes on from a fact of its own: then there is nothing that it should have heard."""
        return self.heard.owner == self.service


_CANCELLED = (ShipmentCancelled, ShipmentRejected, ShipmentCancelFailed)
_DISPATCHED = (ShipmentDispatched, ShipmentDispatchFailed)
_REFUNDED = (PaymentRefunded, PaymentDeclined, PaymentRefundFailed)

STEPS = (
    # The way forward. A payment that fails half-way is undone by payment itself, hence refund_failed.
    Step(OrderCreated, "inventory", (StockReserved, StockRejected)),
    Step(StockReserved, "payment", (PaymentCaptured, PaymentDeclined, PaymentHeld, PaymentRefundFailed)),
    Step(
        PaymentHeld,
        "payment",
        (PaymentApproved, PaymentCaptured, PaymentDeclined, PaymentRefundFailed),
        person=True,
    ),
    Step(PaymentApproved, "payment", (PaymentCaptured, PaymentDeclined, PaymentRefundFailed)),
    Step(
        ApprovalExpired, "payment", (PaymentDeclined, PaymentApproved, PaymentCaptured, PaymentRefundFailed)
    ),
    Step(PaymentCaptured, "fulfillment", (ShipmentScheduled, ShipmentRejected, ShipmentCancelFailed)),
    Step(ShipmentScheduled, "order", (OrderConfirmed,), knowing=OrderCreated),
    # After the pivot: all of them, in any order.
    Step(OrderConfirmed, "fulfillment", _DISPATCHED),
    Step(OrderConfirmed, "notification", (CustomerNotified, NotificationFailed)),
    Step(OrderConfirmed, "inventory", (StockSold,), since=datetime(2026, 11, 28, tzinfo=UTC)),
    # The chain backwards. A service that had stopped by itself when the withdrawal reached it has
    # answered already, with the fact by which it stopped.
    Step(SagaTimedOut, "order", (OrderWithdrawn, OrderConfirmed), knowing=OrderCreated),
    Step(OrderWithdrawn, "fulfillment", _CANCELLED),
    Step(ShipmentCancelled, "payment", _REFUNDED),
    Step(ShipmentRejected, "payment", (PaymentRefunded, PaymentRefundFailed)),
    Step(PaymentRefunded, "inventory", (StockReleased, StockRejected)),
    Step(PaymentDeclined, "inventory", (StockReleased,)),
    Step(StockReleased, "order", (OrderCancelled,), knowing=OrderCreated),
    Step(StockRejected, "order", (OrderCancelled,), knowing=OrderCreated),
    # After the end. A saga that is cancelled stays so while this is waited for.
    Step(OrderCancelled, "notification", (CustomerNotified, NotificationFailed)),
    # An undo or a dispatch that failed for good: a person settles it, and the chain goes on from there.
    Step(ShipmentCancelFailed, "fulfillment", (ShipmentCancelled, ShipmentRejected), person=True),
    Step(PaymentRefundFailed, "payment", (PaymentRefunded, PaymentDeclined), person=True),
    Step(ShipmentDispatchFailed, "fulfillment", (ShipmentDispatched,), person=True),
    Step(RetryRequested, "fulfillment", (*_CANCELLED, *_DISPATCHED)),
    Step(RetryRequested, "payment", _REFUNDED),
    Step(RetryRequested, "notification", (CustomerNotified, NotificationFailed)),
    Step(Settled, "fulfillment", (*_CANCELLED, *_DISPATCHED)),
    Step(Settled, "payment", _REFUNDED),
    Step(Settled, "notification", (CustomerNotified, NotificationFailed)),
)

# Which service hears which fact, as opposed to what it goes on from by itself.
HEARD = frozenset((name_of(step.heard), step.service) for step in STEPS if not step.own)
# What replicas of a release before this one do without stating it.
ADDED = frozenset((name_of(step.heard), step.service) for step in STEPS if step.since is not None)
# Who cannot answer which of them without having heard `order.created`.
KNOWING_THE_ORDER = frozenset(
    (name_of(step.heard), step.service) for step in STEPS if step.knowing is OrderCreated
)
