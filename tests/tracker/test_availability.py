"""Who is down is not late, up to a patience; all in seconds since the order was created."""

from datetime import datetime, timedelta
from uuid import UUID

import pytest
from pydantic import ValidationError

from saga_tracker.availability import Availability
from saga_tracker.deadlines import due
from saga_tracker.projection import project
from saga_tracker.steps import SERVICES
from tests.tracker.facts import BEGAN, facts_named
from tests.tracker.test_deadlines import CONFIRMED, RULES, TURNED_BACK, in_words, settings
from tests.tracker.watch import FIVE

PATIENCE_SECONDS = 100.0
SETTLED_SECONDS = 15.0
RESERVED = "created reserved"
STEP = "payment:inventory.stock_reserved"


def at(second: float) -> datetime:
    return BEGAN + timedelta(seconds=second)


def knowing(patience: float = PATIENCE_SECONDS) -> Availability:
    """Of five services that work, and have answered somebody who came later than anybody here."""
    known = Availability(dict.fromkeys(FIVE, patience), settled_seconds=SETTLED_SECONDS, unready_seconds=2)
    for service in FIVE:
        known.looked(service, at(0), 1, None)
    return known


def pass_over(known: Availability, second: float, names: str = RESERVED) -> None:
    """Whoever this order waits for answers, at that second, others who came later."""
    for wait in project(facts_named(names)).waits:
        known.answered(wait.service, wait.step, at(50), at(second))


def down(known: Availability, first: int, last: int, service: str = "payment") -> None:
    """Nobody consumes its queue then."""
    for second in range(first, last + 1):
        known.looked(service, at(second), 0, None)


def up(known: Availability, first: int, last: int, service: str = "payment") -> None:
    for second in range(first, last + 1):
        known.looked(service, at(second), 1, None)


def planned(names: str, known: Availability) -> str:
    return in_words(due(project(facts_named(names)), RULES, availability=known))


@pytest.mark.parametrize(
    "names", ["created", RESERVED, "created reserved redriven", TURNED_BACK, f"{TURNED_BACK} undo_redriven"]
)
def test_where_all_work_the_deadlines_are_what_they_are(names: str) -> None:
    known = knowing()
    pass_over(known, 2, names)
    assert planned(names, known) == in_words(due(project(facts_named(names)), RULES))


def test_while_it_is_down_its_time_stands_still_up_to_its_patience() -> None:
    known = knowing()
    down(known, 3, 20)
    # From 3 on for a hundred seconds, and then its full time.
    assert planned(RESERVED, known) == "payment redrive 111"
    assert planned("created reserved redriven", known) == "payment time_out 115"
    assert planned(f"{TURNED_BACK} undo_redriven", known) == "payment call_overdue 141"
    # An order that begins to wait when it is over does not wait for it once more.
    later = [fact._replace(read_at=fact.read_at + timedelta(seconds=200)) for fact in facts_named(RESERVED)]
    assert in_words(due(project(later), RULES, availability=known)) == "payment redrive 209"


def test_of_others_only_the_whole_sagas_time_stands_still() -> None:
    known = knowing()
    pass_over(known, 2, "created")
    down(known, 3, 20, "order")
    assert planned("created", known) == "inventory redrive 5"
    slow = [fact._replace(read_at=fact.read_at + timedelta(seconds=24)) for fact in facts_named(RESERVED)[1:]]
    saga = project([facts_named("created")[0], *slow])
    assert in_words(due(saga, RULES)) == "payment redrive 25"
    up(known, 21, 40, "order")
    assert in_words(due(saga, RULES, availability=known)) == "payment redrive 33"


def test_once_it_is_back_each_step_has_its_full_time_again() -> None:
    known = knowing()
    down(known, 3, 20)
    known.looked("payment", at(21), 1, None)
    known.answered("payment", STEP, at(0), at(22))
    pass_over(known, 23)
    assert planned(RESERVED, known) == "payment redrive 30"
    assert planned("created reserved redriven", known) == "payment time_out 34"
    known.answered("payment", "payment:fulfillment.shipment_rejected", at(50), at(23))
    assert planned(f"{TURNED_BACK} undo_redriven", known) == "payment call_overdue 60"
    assert known.outage_of("payment") is None


def test_it_is_back_when_it_has_worked_or_looked_well_for_long() -> None:
    known = knowing()
    down(known, 3, 20)
    # What it had published before it fell down does not say that it works.
    known.answered("payment", STEP, at(0), at(20))
    assert known.outage_of("payment") is not None
    up(known, 21, 34)
    assert known.outage_of("payment") is not None
    up(known, 35, 35)
    assert known.outage_of("payment") is None


@pytest.mark.parametrize("answers", [False, True])
def test_a_crash_loop_does_not_restart_its_patience(answers: bool) -> None:
    known = knowing()
    for second in range(3, 120, 10):
        down(known, second, second + 4)
        up(known, second + 5, second + 9)
        if answers:
            known.answered("payment", STEP, at(0), at(second + 9.5))
    down(known, 123, 123)
    outage = known.outage_of("payment")
    assert outage is not None
    assert (outage.since, outage.until) == (at(3), at(103))


def test_who_answers_nobody_is_down_although_it_consumes_and_says_it_is_ready() -> None:
    known = knowing()
    known.waited("payment", STEP, at(1), 8, at(3))
    assert known.outage_of("payment") is None
    known.waited("payment", STEP, at(1), 8, at(9))
    outage = known.outage_of("payment")
    assert outage is not None
    assert (outage.since, outage.why) == (at(1), "it answers nobody")
    # It may have lost this one: so it is told once more, on time. It is not given up.
    assert planned(RESERVED, known) == "payment redrive 9"
    assert planned("created reserved redriven", known) == "payment time_out 113"
    up(known, 10, 12)
    assert known.outage_of("payment") is not None
    known.answered("payment", STEP, at(0), at(13))
    assert known.outage_of("payment") is None


def test_a_queue_is_as_old_as_it_has_not_been_seen_empty() -> None:
    known = Availability({"payment": 60.0}, settled_seconds=15.0, unready_seconds=2.0)
    known.saw_queue("payment", at(1), 3)
    known.saw_queue("payment", at(2), 7)
    assert known.queued_since("payment") == at(1)
    known.saw_queue("payment", at(3), 0)
    assert known.queued_since("payment") is None
    known.saw_queue("payment", at(4), 1)
    assert known.queued_since("payment") == at(4)


def test_who_waits_for_a_lock_is_not_late_although_others_pass() -> None:
    known = knowing()
    pass_over(known, 2)
    known.saw_lock("payment", at(3), "pid 7")
    known.saw_lock("payment", at(12), "pid 7")
    assert planned(RESERVED, known) == "payment redrive 20"
    assert planned("created reserved redriven", known) == "payment time_out 24"
    lock = known.lock_of("payment")
    assert lock is not None
    assert (lock.since, lock.session) == (at(3), "pid 7")
    known.saw_lock("payment", at(13), None)
    assert known.lock_of("payment") is None
    # Up to its patience.
    for second in range(20, 300, 10):
        known.saw_lock("payment", at(second), "pid 7")
    assert planned(RESERVED, known) == f"payment redrive {1 + PATIENCE_SECONDS + 8:g}"


def test_who_answers_nobody_is_seen_before_anybody_is_late() -> None:
    known = knowing()
    payment, inventory = ("payment", STEP), ("inventory", "inventory:order.created")
    known.waits(UUID(int=1), {payment: (at(1), 8)})
    known.waits(UUID(int=2), {payment: (at(2), 8)})
    known.waits(UUID(int=9), {inventory: (at(3), 8)})
    known.look()
    assert known.outage_of("payment") is None
    known.answered("payment", STEP, at(1), at(3))
    # The next that is noted is looked at from then on, and only for as long as it waits.
    known.waits(UUID(int=3), {payment: (at(4), 8)})
    known.waits(UUID(int=3), {})
    known.answered("inventory", "inventory:order.created", at(3), at(8))
    known.look()
    assert known.outage_of("payment") is None
    known.waits(UUID(int=4), {payment: (at(5), 8)})
    known.look()
    outage = known.outage_of("payment")
    assert outage is not None
    assert outage.since == at(5)


def test_no_order_waits_for_ever_whatever_its_service_goes_through() -> None:
    """For its patience while it is down, and once more while it may be busy with those before."""
    known = knowing()
    for second in range(10, 1_000, 40):
        down(known, second, second + 10)
        up(known, second + 11, second + 39)
    assert (
        planned("created reserved redriven", known)
        == f"payment time_out {1 + 2 * PATIENCE_SECONDS + 8 + 4:g}"
    )


def test_who_answers_others_that_came_later_works_and_this_order_is_late() -> None:
    known = knowing()
    pass_over(known, 3)
    # It may have had nobody else to answer since.
    known.waited("payment", STEP, at(1), 8, at(30))
    assert known.outage_of("payment") is None
    assert planned("created reserved redriven", known) == "payment time_out 6"


def test_who_is_busy_with_those_before_has_its_time_when_it_passes_an_order_over() -> None:
    known = knowing()
    known.answered("payment", STEP, at(-30), at(8))
    known.waited("payment", STEP, at(1), 8, at(9))
    assert known.outage_of("payment") is None
    assert planned("created reserved redriven", known) == "payment time_out 113"
    pass_over(known, 40)
    assert planned("created reserved redriven", known) == "payment time_out 52"
    # Another step of the same service says nothing of this one.
    other = knowing()
    other.answered("payment", "payment:order.withdrawn", at(50), at(3))
    assert planned("created reserved redriven", other) == "payment time_out 113"


def test_one_that_says_it_is_not_ready_is_down_unless_it_answers() -> None:
    known = knowing()
    for second in range(3, 20):
        known.looked("payment", at(second), 1, "database")
        known.answered("payment", STEP, at(0), at(second + 0.5))
    assert known.outage_of("payment") is None
    for second in range(20, 23):
        known.looked("payment", at(second), 1, "database")
    outage = known.outage_of("payment")
    assert outage is not None
    assert (outage.since, outage.why) == (at(20), "it is not ready: database")
    assert planned(RESERVED, known) == "payment redrive 128"


def test_without_patience_nobody_is_waited_for() -> None:
    known = knowing(patience=0)
    down(known, 3, 20)
    assert planned("created", known) == "inventory redrive 5"
    assert planned("created reserved redriven", known) == "payment time_out 15"
    assert planned(CONFIRMED, known) == in_words(due(project(facts_named(CONFIRMED)), RULES))


def test_after_an_interruption_all_begin_anew() -> None:
    known = knowing()
    pass_over(known, 3)
    known.begin_anew(at(60))
    pass_over(known, 61)
    assert planned("created reserved redriven", known) == "payment time_out 72"


def test_an_approval_is_decided_by_the_calendar() -> None:
    known = knowing()
    down(known, 3, 20)
    assert planned("created reserved held", known) == "payment expire_approval 1002"


def test_patience_is_set_by_service() -> None:
    assert settings().service_patience_seconds == dict.fromkeys(SERVICES, 120.0)
    assert settings(service_patience_seconds={"payment": 0}).service_patience_seconds["payment"] == 0
    for wrong in ({"paymnt": 1}, {"payment": -1}):
        with pytest.raises(ValidationError, match="service_patience_seconds"):
            settings(service_patience_seconds=wrong)
