"""The projection says where an order stands, whatever order its facts are read in."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from saga_tracker.projection import ENDED, Saga, SagaFact, State, project
from tests.tracker.facts import BEGAN, PATHS, RETOLD, TRACEPARENT, facts_named

# What is known, then: state, whom it waits for, and why.
REFUNDED = PATHS["carrier refuses"]
LOST, REFUSED = "refund: lost_card", "issue_credit_note: refused"
WITHDRAWN = PATHS["withdrawn at once"]
FAILED = "created reserved captured shipment_rejected refund_failed"
SHOWN = [
    ("created", "PENDING_INVENTORY", "inventory", None),
    ("created reserved", "PENDING_PAYMENT", "payment", None),
    ("created reserved held", "AWAITING_APPROVAL", "payment", None),
    ("created reserved captured", "PENDING_SHIPMENT", "fulfillment", None),
    ("created reserved held captured", "PENDING_SHIPMENT", "fulfillment", None),
    ("created reserved captured scheduled", "PENDING_SHIPMENT", "order", None),
    ("created reserved captured scheduled confirmed sold", "COMPLETING", "fulfillment notification", None),
    ("created reserved captured scheduled confirmed sold notified", "COMPLETING", "fulfillment", None),
    ("created reserved captured scheduled confirmed sold dispatched", "COMPLETING", "notification", None),
    (PATHS["completed"], "COMPLETED", "", None),
    (PATHS["completed, customer not told"], "COMPLETED", "", "email: bounced"),
    (
        "created reserved captured scheduled confirmed sold not_notified",
        "COMPLETING",
        "fulfillment",
        "email: bounced",
    ),
    # What was sold is said by inventory, and nothing is complete before.
    (
        "created reserved captured scheduled confirmed",
        "COMPLETING",
        "fulfillment notification inventory",
        None,
    ),
    ("created scheduled confirmed dispatched notified", "COMPLETING", "inventory", None),
    (
        "created scheduled confirmed dispatch_failed notified",
        "NEEDS_MANUAL",
        "inventory fulfillment",
        "carrier_gone",
    ),
    ("sold", "COMPLETING", "order fulfillment notification", None),
    ("sold dispatched notified", "COMPLETING", "order", None),
    # Nobody is told of a cancellation before the end; then notification owes it, and a person's second try.
    ("created stock_rejected cancelled", "CANCELLED", "notification", "card_declined"),
    ("created stock_rejected cancelled not_notified_of_cancellation", "CANCELLED", "", "card_declined"),
    (RETOLD[0], "COMPLETED", "notification", "email: bounced"),
    # A mail that comes back when all was over: nobody was notified, until somebody is after all.
    (PATHS["mail came back"], "COMPLETED", "", "email: bounced: 5.1.1"),
    (RETOLD[2], "COMPLETED", "notification", "email: bounced: 5.1.1"),
    (f"{RETOLD[2]} notified_again", "COMPLETED", "", None),
    (f"{RETOLD[2]} not_notified", "COMPLETED", "", "email: bounced: 5.1.1"),
    (f"{PATHS['mail came back']} notified_again", "COMPLETED", "", None),
    (f"{PATHS['mail came back']} not_notified", "COMPLETED", "", "email: bounced: 5.1.1"),
    (f"{PATHS['declined']} came_back_of_cancellation", "CANCELLED", "", "card_declined"),
    ("created came_back", "COMPLETING", "order fulfillment inventory", "email: bounced: 5.1.1"),
    (RETOLD[3], "CANCELLED", "notification", "card_declined"),
    (f"{RETOLD[3]} notified_of_cancellation", "CANCELLED", "", "card_declined"),
    # Turned back by a service.
    ("created stock_rejected", "COMPENSATING", "order", "out_of_stock"),
    ("created reserved declined", "COMPENSATING", "inventory", "card_declined"),
    ("created reserved held declined", "COMPENSATING", "inventory", "card_declined"),
    ("created reserved declined released", "COMPENSATING", "order", "card_declined"),
    ("created reserved captured shipment_rejected", "COMPENSATING", "payment", "address_not_served"),
    (
        "created reserved captured shipment_rejected refunded",
        "COMPENSATING",
        "inventory",
        "address_not_served",
    ),
    (PATHS["declined"], "CANCELLED", "", "card_declined"),
    # Pending at the provider, which takes as long as it takes.
    ("created reserved pending", "PENDING_PAYMENT", "payment", None),
    ("created reserved held approved pending", "PENDING_PAYMENT", "payment", None),
    ("created reserved pending captured", "PENDING_SHIPMENT", "fulfillment", None),
    (
        "created reserved captured shipment_rejected refund_pending",
        "COMPENSATING",
        "payment",
        "address_not_served",
    ),
    (
        "created reserved pending withdrawn shipment_cancelled refund_pending",
        "COMPENSATING",
        "payment",
        "customer_cancelled",
    ),
    # A refund that fails when all was over, until it is done after all; and a dispute, which is only shown.
    (f"{REFUNDED} reversed", "NEEDS_MANUAL", "payment", "refund: lost_card"),
    (f"{REFUNDED} reversed reversal_retried", "COMPENSATING", "payment", "refund: lost_card"),
    (f"{REFUNDED} reversed reversal_retried refunded_again", "CANCELLED", "", "card_declined"),
    (f"{REFUNDED} reversed refunded_again", "CANCELLED", "", "card_declined"),
    (f"{REFUNDED} reversed reversal_retried refund_failed", "NEEDS_MANUAL", "payment", REFUSED),
    (f"{REFUNDED} reversed reversal_retried refund_failed retried", "COMPENSATING", "payment", LOST),
    # A label that is not refunded after all, the same.
    (f"{WITHDRAWN} label_rejected", "NEEDS_MANUAL", "fulfillment", "refund_rejected"),
    (f"{WITHDRAWN} label_rejected label_retried", "COMPENSATING", "fulfillment", "refund_rejected"),
    (
        f"{WITHDRAWN} label_rejected label_retried cancel_failed",
        "NEEDS_MANUAL",
        "fulfillment",
        "carrier_silent",
    ),
    (f"{WITHDRAWN} label_rejected label_retried cancelled_again", "CANCELLED", "", "card_declined"),
    (
        "created withdrawn shipment_cancelled label_rejected",
        "NEEDS_MANUAL",
        "payment fulfillment",
        "refund_rejected",
    ),
    (f"{PATHS['completed']} disputed", "COMPLETED", "", None),
    # Turned back by its owner.
    ("created withdrawn", "COMPENSATING", "fulfillment", "customer_cancelled"),
    ("created reserved captured scheduled withdrawn", "COMPENSATING", "fulfillment", "customer_cancelled"),
    ("created reserved withdrawn shipment_cancelled", "COMPENSATING", "payment", "customer_cancelled"),
    ("created withdrawn shipment_cancelled refunded", "COMPENSATING", "inventory", "customer_cancelled"),
    ("created withdrawn shipment_cancelled refunded released", "COMPENSATING", "order", "customer_cancelled"),
    ("created reserved withdrawn declined", "COMPENSATING", "inventory", "customer_cancelled"),
    ("created withdrawn stock_rejected", "COMPENSATING", "order", "customer_cancelled"),
    ("created withdrawn captured scheduled", "COMPENSATING", "fulfillment", "customer_cancelled"),
    # Late: the owner decides, unless it has.
    ("created reserved timed_out", "PENDING_PAYMENT", "order", "late: payment.captured"),
    ("created reserved timed_out captured", "PENDING_SHIPMENT", "order", "late: payment.captured"),
    ("created reserved timed_out withdrawn", "COMPENSATING", "fulfillment", "customer_cancelled"),
    (PATHS["timed out too late"], "COMPLETED", "", None),
    # A person is needed, until the chain goes on.
    ("created reserved refund_failed", "NEEDS_MANUAL", "payment", "issue_credit_note: refused"),
    (
        "created captured shipment_rejected refund_failed",
        "NEEDS_MANUAL",
        "payment",
        "issue_credit_note: refused",
    ),
    (
        "created withdrawn shipment_cancelled refund_failed",
        "NEEDS_MANUAL",
        "payment",
        "issue_credit_note: refused",
    ),
    ("created reserved captured cancel_failed", "NEEDS_MANUAL", "fulfillment", "carrier_silent"),
    ("created captured withdrawn cancel_failed", "NEEDS_MANUAL", "fulfillment", "carrier_silent"),
    (
        "created captured withdrawn cancel_failed shipment_cancelled",
        "COMPENSATING",
        "payment",
        "customer_cancelled",
    ),
    (
        "created captured shipment_rejected refund_failed refunded",
        "COMPENSATING",
        "inventory",
        "address_not_served",
    ),
    (
        "created captured shipment_rejected refund_failed released",
        "COMPENSATING",
        "order",
        "address_not_served",
    ),
    (PATHS["refund settled"], "CANCELLED", "", "card_declined"),
    (
        "created scheduled confirmed sold dispatch_failed",
        "NEEDS_MANUAL",
        "notification fulfillment",
        "carrier_gone",
    ),
    (
        "created scheduled confirmed sold dispatch_failed notified",
        "NEEDS_MANUAL",
        "fulfillment",
        "carrier_gone",
    ),
    ("created scheduled confirmed sold dispatch_failed dispatched", "COMPLETING", "notification", None),
    (PATHS["dispatch settled"], "COMPLETED", "", None),
    ("created confirmed cancelled", "NEEDS_MANUAL", "", "both order.confirmed and order.cancelled"),
    # A person has taken a failure up: the service is waited for again, until it fails again.
    (f"{FAILED} retried", "COMPENSATING", "payment", "address_not_served"),
    (f"{FAILED} retried refund_failed_again", "NEEDS_MANUAL", "payment", "refund: refused again"),
    (f"{FAILED} refund_failed_again retried", "NEEDS_MANUAL", "payment", "refund: refused again"),
    (f"{FAILED} retried refund_failed_again settled", "COMPENSATING", "payment", "address_not_served"),
    (f"{FAILED} retried refunded", "COMPENSATING", "inventory", "address_not_served"),
    (f"{FAILED} dispatch_retried", "NEEDS_MANUAL", "payment", "issue_credit_note: refused"),
    (
        "created scheduled confirmed sold dispatch_failed dispatch_retried",
        "COMPLETING",
        "notification fulfillment",
        None,
    ),
    # A person has let it pass, or nobody has in time.
    ("created reserved held approved", "PENDING_PAYMENT", "payment", None),
    ("approved", "PENDING_PAYMENT", "payment", None),
    ("created reserved held approved expired", "PENDING_PAYMENT", "payment", None),
    ("created reserved held expired", "AWAITING_APPROVAL", "payment", None),
    # Late, and for good, until the answer comes.
    ("created reserved redriven", "PENDING_PAYMENT", "payment", None),
    (
        "created reserved captured shipment_rejected undo_redriven",
        "COMPENSATING",
        "payment",
        "address_not_served",
    ),
    (
        "created reserved captured shipment_rejected undo_redriven undo_overdue",
        "NEEDS_MANUAL",
        "payment",
        "overdue: payment.refunded",
    ),
    (
        "created captured shipment_rejected undo_overdue refunded",
        "COMPENSATING",
        "inventory",
        "address_not_served",
    ),
    (
        "created scheduled confirmed sold dispatch_overdue",
        "NEEDS_MANUAL",
        "fulfillment notification",
        "overdue: fulfillment.shipment_dispatched",
    ),
    ("created scheduled confirmed sold dispatch_overdue dispatched", "COMPLETING", "notification", None),
    ("redriven", "PENDING_INVENTORY", "", None),
    # Only what came later was read so far; its causes are certain all the same.
    ("reserved", "PENDING_PAYMENT", "payment", None),
    ("captured", "PENDING_SHIPMENT", "fulfillment", None),
    ("dispatched", "COMPLETING", "order notification inventory", None),
    ("notified", "COMPLETING", "order fulfillment inventory", None),
    ("dispatched notified", "COMPLETING", "order inventory", None),
    ("dispatch_failed", "NEEDS_MANUAL", "order notification inventory fulfillment", "carrier_gone"),
    ("released", "COMPENSATING", "order", "card_declined"),
    ("timed_out", "PENDING_INVENTORY", "order", "late: payment.captured"),
    ("notified_of_cancellation", "COMPENSATING", "order", None),
]


@pytest.mark.parametrize(("known", "state", "waits_for", "reason"), SHOWN)
def test_a_set_of_facts_shows_as(known: str, state: str, waits_for: str, reason: str | None) -> None:
    saga = project(facts_named(known))
    assert (saga.state, [wait.service for wait in saga.waits], saga.reason) == (
        state,
        waits_for.split(),
        reason,
    )


@pytest.mark.parametrize("known", [f"{FAILED} retried", f"{REFUNDED} reversed reversal_retried"])
def test_a_refund_that_is_tried_again_may_be_pending_and_is_not_late_then(known: str) -> None:
    for more, because_of in (("", "saga.retry_requested"), (" refund_pending", "payment.refund_pending")):
        [wait] = project(facts_named(known + more)).waits
        assert (wait.because_of, wait.person) == (because_of, False)


def test_every_state_is_shown_by_some_set_of_facts() -> None:
    assert {state for _, state, _, _ in SHOWN} == {state.value for state in State}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_every_prefix_of_a_saga_waits_for_somebody_until_it_ends(path: str) -> None:
    facts = facts_named(path)
    for count in range(1, len(facts) + 1):
        saga = project(facts[:count])
        notified = any(fact.ending for fact in facts[:count])
        assert bool(saga.waits) != (saga.state in ENDED and notified)
        assert saga.state not in ENDED or {wait.service for wait in saga.waits} <= {"notification"}
        assert (saga.ended_at is not None) == (saga.state in ENDED)
    assert project(facts).state in ENDED


@given(st.data(), st.sampled_from(list(PATHS.values())))
def test_neither_order_nor_repetition_matters(data: DataObject, path: str) -> None:
    known = data.draw(st.sets(st.sampled_from(facts_named(path)), min_size=1))
    repeated = data.draw(st.lists(st.sampled_from(sorted(known, key=_by_id))))
    read = data.draw(st.permutations([*sorted(known, key=_by_id), *repeated]))
    assert project(read) == project(list(known))


@given(st.sampled_from(list(PATHS.values())), st.data())
def test_neither_the_end_nor_the_pivot_is_shown_early(path: str, data: DataObject) -> None:
    known = data.draw(st.lists(st.sampled_from(facts_named(path)), min_size=1))
    names = {fact.name for fact in known}
    saga = project(known)
    if saga.state is State.COMPLETED:
        assert {"order.confirmed", "inventory.stock_sold", "fulfillment.shipment_dispatched"} <= names
        notices = ("customer_notified", "notification_failed", "mail_bounced")
        assert names & {f"notification.{notice}" for notice in notices}
    assert (saga.state is State.CANCELLED) == ("order.cancelled" in names)


def test_times_are_those_at_which_the_facts_were_read() -> None:
    saga = project(facts_named(PATHS["completed"]))
    assert saga.started_at == BEGAN
    assert saga.since == saga.ended_at == BEGAN + timedelta(seconds=7)


def test_a_state_is_entered_once_however_many_facts_confirm_it() -> None:
    assert _seconds(project(facts_named("created reserved captured scheduled"))) == 2
    assert _seconds(project(facts_named("created reserved declined released"))) == 2
    assert _seconds(project(facts_named("created reserved captured shipment_rejected refund_failed"))) == 4


def test_a_wait_names_the_fact_that_made_it_their_turn_and_since_when() -> None:
    facts = facts_named("created reserved captured scheduled")
    (wait,) = project(facts).waits
    assert (wait.because_of, wait.because_of_id) == ("fulfillment.shipment_scheduled", facts[-1].fact_id)
    assert wait.since == BEGAN + timedelta(seconds=3)
    assert (wait.facts, wait.person) == (("order.confirmed",), False)


def test_what_waits_for_a_person_says_so() -> None:
    for known in ("created reserved held", "created reserved refund_failed"):
        assert [wait.person for wait in project(facts_named(known)).waits] == [True]


def test_a_wait_says_when_it_was_redriven_and_given_up() -> None:
    (wait,) = project(
        facts_named("created reserved captured shipment_rejected undo_redriven undo_overdue")
    ).waits
    assert wait.redriven_at == BEGAN + timedelta(seconds=4)
    assert wait.overdue_at == BEGAN + timedelta(seconds=5)
    (wait,) = project(facts_named("created reserved redriven captured")).waits
    assert (wait.redriven_at, wait.overdue_at) == (None, None)


def test_after_an_approval_its_time_begins_anew() -> None:
    for known, second in (
        ("created reserved captured", 0),
        ("created reserved held", 0),
        ("created reserved held approved captured", 3),
        ("created reserved held captured", 3),
        ("created reserved held expired", 3),
    ):
        assert project(facts_named(known)).unparked_at == BEGAN + timedelta(seconds=second)


def test_a_customer_notified_at_last_is_no_reason_any_more() -> None:
    known = "created reserved captured scheduled confirmed sold not_notified dispatched notified"
    saga = project(facts_named(known))
    assert (saga.state, saga.reason) == (State.COMPLETED, None)


def test_that_it_timed_out_stays_visible() -> None:
    assert project(facts_named(PATHS["timed out"])).timed_out
    assert project(facts_named(PATHS["timed out too late"])).timed_out
    assert not project(facts_named(PATHS["completed"])).timed_out


def test_the_trace_is_that_of_the_order() -> None:
    first, second = facts_named("created reserved")
    untraced = SagaFact(first.fact_id, first.name, first.read_at)
    assert project([first]).trace_id == TRACEPARENT.split("-")[1]
    assert project([untraced, second]).trace_id == TRACEPARENT.split("-")[1]
    assert project([untraced]).trace_id is None


def test_an_order_published_twice_began_the_first_time() -> None:
    first, second = facts_named("created reserved")
    again = SagaFact(second.fact_id, first.name, second.read_at)
    assert project([again, first]).started_at == first.read_at


def test_an_order_began_no_later_than_anything_else_that_was_read_of_it() -> None:
    first, second, third = facts_named("created reserved captured")
    late = first._replace(read_at=BEGAN + timedelta(hours=1))
    assert project([late]).started_at == BEGAN + timedelta(hours=1)
    assert project([late, third]).started_at == third.read_at
    assert project([third, second, late]).started_at == second.read_at


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_what_a_publisher_says_of_the_time_counts_nothing(path: str) -> None:
    facts = facts_named(path)
    for hours in (-2, 2):
        wrong = [fact._replace(stated_at=fact.read_at + timedelta(hours=hours)) for fact in facts]
        for count in range(1, len(facts) + 1):
            assert project(wrong[:count]) == project(facts[:count])


def test_no_facts_make_no_saga() -> None:
    with pytest.raises(ValueError, match="begins with a fact"):
        project([])


def _seconds(saga: Saga) -> float:
    return (saga.since - BEGAN).total_seconds()


def _by_id(fact: SagaFact) -> str:
    return str(fact.fact_id)
