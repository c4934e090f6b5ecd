"""What the plays are made of: orders, their stock, and what may happen to them at any moment."""

from collections.abc import Iterable
from uuid import UUID

from events.facts import Line
from events.facts.order import OrderCreated
from events.facts.saga import ApprovalExpired, SagaTimedOut
from inventory_svc.decide import Stock
from notification_svc.decide import Bounced
from order_svc.decide import CancelOrder, PlaceOrder
from tests.decide.given import CUSTOMER, LIMIT_MINOR, order_created

ADA, BOB, EVE = UUID(int=1), UUID(int=2), UUID(int=3)

PLENTY = (Stock("apple", 9, 0, 0), Stock("pear", 9, 0, 0))
NO_PEARS = (Stock("apple", 9, 0, 0), Stock("pear", 0, 0, 0))
ONE_PEAR = (Stock("apple", 9, 0, 0), Stock("pear", 1, 0, 0))

LINES = (Line(sku="apple", quantity=2, amount_minor=300), Line(sku="pear", quantity=1, amount_minor=200))
ABOVE_LIMIT = (Line(sku="pear", quantity=1, amount_minor=LIMIT_MINOR + 1),)


def posted(order_id: UUID, lines: Iterable[Line] = LINES) -> PlaceOrder:
    """A customer's POST."""
    wanted = published(order_id, lines)
    return PlaceOrder(**wanted.model_dump(), fingerprint="f1")


def published(order_id: UUID, lines: Iterable[Line] = LINES) -> OrderCreated:
    """An outside publisher's fact, which the facts it leads to may overtake on their way to order_svc."""
    return order_created(order_id, tuple(lines))


def cancelled(order_id: UUID) -> CancelOrder:
    return CancelOrder(order_id=order_id)


def timed_out(order_id: UUID, waiting_for: str = "payment.captured") -> SagaTimedOut:
    return SagaTimedOut(order_id=order_id, waiting_for=waiting_for, customer=CUSTOMER)


def came_back(order_id: UUID) -> Bounced:
    """The first mail to the customer."""
    return Bounced(order_id=order_id, round=1, reason="5.1.1")


def approval_expired(order_id: UUID) -> ApprovalExpired:
    return ApprovalExpired(order_id=order_id, waited_seconds=604_800)
