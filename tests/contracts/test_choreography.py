"""Whatever is received is published by somebody, and whatever is published is received by somebody."""

from compose.system import SERVICES
from events.facts import Fact, SupersededFact
from events.facts.fulfillment import ShipmentCancelled
from events.facts.inventory import StockReleased
from events.facts.order import OrderCreated, OrderWithdrawn
from events.facts.payment import PaymentRefunded
from events.facts.saga import (
    ApprovalExpired,
    RetryRequested,
    SagaOverdue,
    SagaRedriven,
    SagaTimedOut,
    Settled,
)
from tests.contracts.published import PUBLISHED

PUBLISHED_BY_THE_TRACKER: set[type[Fact]] = {
    SagaRedriven,
    SagaTimedOut,
    SagaOverdue,
    ApprovalExpired,
    RetryRequested,
    Settled,
}
# For the tracker's eyes only, and through it for a person's. A new one is added here on purpose.
RECEIVED_BY_THE_TRACKER_ALONE = {
    "inventory.stock_sold.v1",
    "payment.held.v1",
    "payment.approved.v1",
    "payment.pending.v1",
    "payment.refund_pending.v1",
    "payment.refund_reversed.v1",
    "fulfillment.label_refund_rejected.v1",
    "payment.disputed.v1",
    "payment.refund_failed.v1",
    "fulfillment.shipment_cancel_failed.v1",
    "fulfillment.shipment_dispatched.v2",
    "fulfillment.shipment_dispatch_failed.v1",
    "notification.customer_notified.v1",
    "notification.notification_failed.v1",
    "notification.mail_bounced.v1",
    "saga.redriven.v1",
    "saga.overdue.v1",
}


def wire_names(*groups: tuple[type[Fact], ...]) -> set[str]:
    return {fact.wire_name for group in groups for fact in group}


SUBSCRIBED = wire_names(*(service.subscribes_to for service in SERVICES))
ALL_PUBLISHED = wire_names(*(service.publishes for service in SERVICES), tuple(PUBLISHED_BY_THE_TRACKER))
NEWEST = {name for name, fact in PUBLISHED.items() if not issubclass(fact, SupersededFact)}


def test_every_fact_subscribed_to_is_published_by_somebody() -> None:
    assert set() == SUBSCRIBED - ALL_PUBLISHED


def test_every_published_fact_is_subscribed_to_by_a_service_or_meant_for_the_tracker() -> None:
    assert ALL_PUBLISHED - SUBSCRIBED == RECEIVED_BY_THE_TRACKER_ALONE


def test_every_published_fact_has_a_service_that_publishes_it() -> None:
    assert ALL_PUBLISHED == NEWEST


def test_no_fact_is_published_by_two() -> None:
    assert sum(len(service.publishes) for service in SERVICES) + len(PUBLISHED_BY_THE_TRACKER) == len(
        ALL_PUBLISHED
    )


def test_every_service_publishes_only_what_it_owns() -> None:
    for service in SERVICES:
        assert {fact.owner for fact in service.publishes} == {service.name}


def test_what_a_person_asks_reaches_whoever_can_fail_for_good() -> None:
    """Each takes what is meant for itself: the others receive it too, and leave it."""
    able = {service.name for service in SERVICES if any(fact.case for fact in service.publishes)}
    for kind in (RetryRequested, Settled):
        assert {service.name for service in SERVICES if kind in service.subscribes_to} == able


def test_what_an_outside_publisher_sends_reaches_whoever_must_know_of_an_order() -> None:
    """order_svc receives its own fact too, for it is not the only one to publish it."""
    assert {service.name for service in SERVICES if OrderCreated in service.subscribes_to} == {
        "order",
        "inventory",
    }


def test_the_undo_chain_runs_back_from_the_far_end() -> None:
    """Each link is received by the service before it, back to the one that owns the order's fate."""
    chain = (OrderWithdrawn, ShipmentCancelled, PaymentRefunded, StockReleased)
    subscribers = [{service.name for service in SERVICES if link in service.subscribes_to} for link in chain]
    assert subscribers == [{"fulfillment"}, {"payment"}, {"inventory"}, {"order"}]
