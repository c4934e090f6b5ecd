"""The table of what comes next matches what the services really receive and publish."""

import pytest

from compose.system import SERVICES
from events.facts import Fact
from events.facts.fulfillment import LabelRefundRejected
from events.facts.order import OrderCreated
from events.facts.payment import PaymentDisputed, PaymentRefundReversed
from events.service import Step, name_of
from saga_tracker.projection import project
from saga_tracker.steps import STEPS
from tests.tracker.facts import PATHS, RETOLD, facts_named

BY_NAME = {service.name: service for service in SERVICES}
# Every pair of a service and a fact that it subscribes to.
SUBSCRIPTIONS: set[tuple[type[Fact], str]] = {
    (fact, service.name) for service in SERVICES for fact in service.subscribes_to
}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.trigger.__name__} to {step.service}")
def test_whoever_is_waited_for_receives_the_fact_before_and_publishes_what_is_awaited(step: Step) -> None:
    service = BY_NAME[step.service]
    assert step.trigger in (service.publishes if step.own else service.subscribes_to)
    assert step.own or not step.person
    assert set(step.results) <= set(service.publishes)


def test_every_fact_that_a_service_subscribes_to_has_a_sign_that_it_came() -> None:
    """A step whose answer says so. That of `order.created` to order_svc is how it goes on with the order."""
    turns = {(step.trigger, step.service) for step in STEPS if not step.own}
    needed = {(step.knowing, step.service) for step in STEPS if step.knowing is not None}
    assert turns | needed == SUBSCRIPTIONS
    assert needed - turns == {(OrderCreated, "order")}
    assert all(step.knowing for step in STEPS if step.service == "order")


@pytest.mark.parametrize(
    ("fact", "service"),
    sorted({(step.trigger, step.service) for step in STEPS}, key=str),
    ids=lambda part: part if isinstance(part, str) else part.__name__,
)
def test_the_sign_is_waited_for(fact: type[Fact], service: str) -> None:
    """At some moment of some saga the tracker waits for it, because of this very fact."""
    waited_for = {
        (wait.because_of, wait.service)
        for path in (*PATHS.values(), *RETOLD)
        for count in range(1, len(path.split()) + 1)
        for wait in project(facts_named(" ".join(path.split()[:count]))).waits
    }
    assert (name_of(fact), service) in waited_for


def test_every_fact_published_is_awaited_or_begins_something() -> None:
    published = {fact for service in SERVICES for fact in service.publishes}
    begin = {fact for fact in published if not any(fact in step.results for step in STEPS)}
    # All but the first begin with what a provider or a carrier says when all was over.
    assert begin == {OrderCreated, PaymentDisputed, PaymentRefundReversed, LabelRefundRejected}
