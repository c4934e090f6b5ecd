"""The table of what comes next matches what the services really hear and state."""

import pytest

from compose.system import SERVICES
from events.facts import Fact
from events.facts.order import OrderCancelled, OrderConfirmed, OrderCreated
from saga_tracker.steps import STEPS, Step

BY_NAME = {service.name: service for service in SERVICES}
# Who hears a fact without a saga waiting for an answer: order_svc records a published order, inventory
# books as sold what was reserved, and the customer is told of a cancellation after the end.
UNANSWERED = {(OrderCreated, "order"), (OrderConfirmed, "inventory"), (OrderCancelled, "notification")}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.heard.__name__} to {step.service}")
def test_whoever_is_waited_for_hears_the_fact_before_and_states_what_is_awaited(step: Step) -> None:
    service = BY_NAME[step.service]
    assert step.heard in (service.states if step.own else service.hears)
    assert step.own or not step.person
    assert set(step.answers) <= set(service.states)


def test_every_fact_heard_is_somebodys_turn() -> None:
    heard: set[tuple[type[Fact], str]] = {
        (fact, service.name) for service in SERVICES for fact in service.hears
    }
    assert {(step.heard, step.service) for step in STEPS if not step.own} == heard - UNANSWERED


def test_every_fact_stated_is_awaited_or_begins_something() -> None:
    stated = {fact for service in SERVICES for fact in service.states}
    begin = {fact for fact in stated if not any(fact in step.answers for step in STEPS)}
    assert begin == {OrderCreated}
