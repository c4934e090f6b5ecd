"""How long each step took follows from the facts of an order, whatever their order and however many."""

import pytest

from events.service import name_of
from saga_tracker.steps import STEPS
from saga_tracker.timeline import step_taken
from tests.tracker.facts import PATHS, facts_named

STEP_NAMES = {f"{step.service}:{name_of(step.trigger)}" for step in STEPS}


def taken(names: str) -> list[tuple[str, float]]:
    facts = facts_named(names)
    found = [step_taken(fact, reversed(facts)) for fact in facts]
    return [(step.step, step.seconds) for step in found if step is not None]


def test_each_answer_ends_a_step() -> None:
    assert taken(PATHS["completed"]) == [
        ("inventory:order.created", 1.0),
        ("payment:inventory.stock_reserved", 1.0),
        ("fulfillment:payment.captured", 1.0),
        ("order:fulfillment.shipment_scheduled", 1.0),
        ("inventory:order.confirmed", 1.0),
        ("fulfillment:order.confirmed", 2.0),
        ("notification:order.confirmed", 3.0),
    ]


def test_a_step_begins_with_the_last_fact_that_it_can_be_the_answer_to() -> None:
    path = "created reserved captured shipment_rejected refund_failed retried refund_failed_again settled"
    assert ("payment:saga.settled", 1.0) in taken(f"{path} refunded")
    assert ("payment:saga.retry_requested", 1.0) in taken(path)


def test_what_a_person_asked_of_one_service_is_no_step_of_another() -> None:
    steps = [step for step, _ in taken("created captured confirmed dispatch_failed retried dispatched")]
    assert steps[-1] == "fulfillment:fulfillment.shipment_dispatch_failed"


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_there_are_no_more_steps_than_the_table_has(path: str) -> None:
    assert {step for step, _ in taken(path)} <= STEP_NAMES


def test_what_has_no_cause_is_no_step() -> None:
    assert taken("created") == []
    assert taken("captured") == []
