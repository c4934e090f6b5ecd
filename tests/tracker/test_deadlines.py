"""What the tracker does about a late service, and when; all in seconds since the order was created."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DataObject
from pydantic import ValidationError

from saga_tracker.deadlines import Due, Rules, due, due_at
from saga_tracker.projection import ENDED, State, project
from saga_tracker.settings import STEP_DEADLINES_SECONDS, TrackerSettings
from tests.tracker.facts import BEGAN, PATHS, RETOLD, facts_named

RULES = Rules(
    step_seconds={
        "inventory": 5,
        "payment": 8,
        "payment:saga.approval_expired": 3,
        "fulfillment": 9,
        "order": 6,
        "notification": 600,
    },
    redrive_grace_seconds=4,
    saga_seconds=25,
    overdue_after_seconds=30,
    approval_seconds=1_000,
)
TURNED_BACK = "created reserved captured shipment_rejected"
UNENDED = "created reserved declined released"
CONFIRMED = "created reserved captured scheduled confirmed"
# What is known, each fact a second after the one before it; then what is due about whom, and when.
EXPECTED = [
    # The way forward: once more, and then the end of it.
    ("created", "inventory redrive 5"),
    ("created reserved", "payment redrive 9"),
    ("created reserved redriven", "payment time_out 6"),
    ("created reserved captured", "fulfillment redrive 11"),
    ("created reserved captured scheduled", "order redrive 9"),
    # Parked: nothing but the approval's own deadline, and the time before does not count afterwards.
    ("created reserved held", "payment expire_approval 1002"),
    ("created reserved redriven held", "payment expire_approval 1003"),
    ("created reserved held expired", "payment redrive 6"),
    # Payment went on from its own approval: there is no fact to send it again.
    ("created reserved held approved", "payment time_out 15"),
    ("created reserved held approved captured", "fulfillment redrive 13"),
    # The owner decides; that cannot time out once more.
    ("created reserved redriven timed_out", "order redrive 9"),
    # An undo, and what follows the pivot.
    (TURNED_BACK, "payment redrive 11"),
    (f"{TURNED_BACK} undo_redriven", "payment call_overdue 34"),
    (f"{TURNED_BACK} undo_redriven undo_overdue", ""),
    (f"{TURNED_BACK} undo_redriven undo_overdue refunded", "inventory redrive 11"),
    ("created withdrawn", "fulfillment redrive 10"),
    (CONFIRMED, "fulfillment redrive 13, notification redrive 604, inventory redrive 9"),
    (f"{CONFIRMED} sold", "fulfillment redrive 13, notification redrive 604"),
    (f"{CONFIRMED} dispatch_overdue sold", "notification redrive 604"),
    # Nobody has said that the order is confirmed, so there is nothing to send those who wait for it.
    ("dispatched", "order call_overdue 36, notification call_overdue 630, inventory call_overdue 35"),
    # A person's turn, until they have taken it.
    (f"{TURNED_BACK} refund_failed", ""),
    (f"{TURNED_BACK} refund_failed retried", "payment redrive 13"),
    (f"{CONFIRMED} dispatch_failed notified sold", ""),
    (f"{CONFIRMED} dispatch_failed dispatch_retried notified sold", "fulfillment redrive 15"),
    # The owner will not end what is undone: it may not know of it. Told so once, it is a matter for a person.
    (UNENDED, "order redrive 9"),
    (f"{UNENDED} order_redriven", "order time_out 8"),
    (f"{UNENDED} order_redriven timed_out", "order call_overdue 34"),
    # After the end.
    ("created stock_rejected cancelled", "notification redrive 602"),
    (RETOLD[0], "notification redrive 608"),
    (PATHS["completed"], ""),
    (PATHS["declined"], ""),
]


def in_words(dues: tuple[Due, ...]) -> str:
    return ", ".join(
        f"{one.wait.service} {one.act.value} {(one.at - BEGAN).total_seconds():g}" for one in dues
    )


@pytest.mark.parametrize(("known", "expected"), EXPECTED)
def test_what_is_due_and_when(known: str, expected: str) -> None:
    assert in_words(due(project(facts_named(known)), RULES)) == expected


def test_the_whole_way_forward_has_a_deadline_too() -> None:
    slow = Rules({**RULES.step_seconds, "fulfillment": 60}, 4, 25, 30, 1_000)
    assert in_words(due(project(facts_named("created reserved captured")), slow)) == "fulfillment redrive 25"
    approved = project(facts_named("created reserved held approved captured"))
    assert in_words(due(approved, slow)) == "fulfillment redrive 28"
    # An undo takes as long as it takes.
    assert (
        in_words(due(project(facts_named("created reserved captured withdrawn")), slow))
        == "fulfillment redrive 63"
    )


def test_who_could_not_be_reached_was_not_late() -> None:
    received_again = BEGAN + timedelta(seconds=100)
    for known, expected in (
        ("created", "inventory redrive 105"),
        ("created reserved captured", "fulfillment redrive 109"),
        ("created reserved redriven", "payment time_out 104"),
        (f"{TURNED_BACK} undo_redriven", "payment call_overdue 130"),
        ("created reserved held", "payment expire_approval 1002"),
    ):
        assert in_words(due(project(facts_named(known)), RULES, received_again)) == expected
    assert (
        in_words(due(project(facts_named("created")), RULES, BEGAN - timedelta(days=1)))
        == "inventory redrive 5"
    )


def test_each_wait_is_due_when_something_is_done_about_it() -> None:
    saga = project(facts_named(f"{CONFIRMED} dispatch_overdue sold"))
    dues = due(saga, RULES)
    assert [due_at(wait, dues) for wait in saga.waits] == [None, BEGAN + timedelta(seconds=604)]


@given(st.data(), st.sampled_from(list(PATHS.values())))
def test_whoever_waits_for_a_service_has_a_deadline_whatever_was_read(data: DataObject, path: str) -> None:
    known = data.draw(st.lists(st.sampled_from(facts_named(path)), min_size=1))
    saga = project(known)
    dues = due(saga, RULES)
    assert dues == due(project(data.draw(st.permutations(known))), RULES)
    assert saga.state not in ENDED or {one.wait.service for one in dues} <= {"notification"}
    with_deadline = [wait for wait in saga.waits if not wait.person and wait.overdue_at is None]
    parked = saga.state is State.AWAITING_APPROVAL and any(wait.person for wait in saga.waits)
    assert len(dues) == len(with_deadline) + parked
    assert all(one.at > one.wait.since for one in dues)


def settings(**given: object) -> TrackerSettings:
    urls = {"broker_url": "amqp://nowhere", "database_url": "postgresql://nowhere", "http_port": 0}
    return TrackerSettings.model_validate({**urls, **given})


def test_a_step_that_is_not_set_keeps_its_deadline() -> None:
    assert settings().deadline_rules.step_seconds == STEP_DEADLINES_SECONDS
    given = {"payment": 1, "payment:inventory.stock_reserved": 2}
    changed = settings(step_deadline_seconds=given)
    assert changed.deadline_rules.step_seconds == {**STEP_DEADLINES_SECONDS, **given}


@pytest.mark.parametrize("wrong", [{"paymnt": 1}, {"payment:order.created": 1}, {"payment": 0}])
def test_a_step_that_does_not_exist_is_not_taken(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="step_deadline_seconds"):
        settings(step_deadline_seconds=wrong)
