"""What a drill's faults cost: how many of the orders that had every reason to complete did, how many are left
to a person, and how soon it was over."""

from collections.abc import Mapping
from uuid import UUID

from compose.drills.load import Kind, Load
from compose.drills.outcome import Check, Recovery, Target
from compose.drills.timeline import Timeline
from saga_tracker.consistency.snapshot import Books

MANUAL = "NEEDS_MANUAL"


def recovery_of(
    load: Load, books: Mapping[UUID, Books], timeline: Timeline, of_late_seconds: float
) -> Recovery:
    """Of the orders of this load, by the books as they are in the end."""
    sound = {
        order_id
        for order_id, kind in load.accepted_as.items()
        if kind.should_complete and order_id not in load.withdrawn
    }
    last = timeline.samples[-1] if timeline.samples else None
    return Recovery(
        sound=len(sound),
        completed=sum(books[order_id].verdict == "COMPLETED" for order_id in sound),
        manual=len(left_to_a_person(load.accepted_as, books)),
        refused=len(load.refused),
        turned_away=len(load.turned_away),
        ended_after_seconds=timeline.seconds_to_end,
        on_their_way=(last and last.in_flight) or 0,
        still_ending=timeline.ended_of_late(of_late_seconds) > 0,
    )


def left_to_a_person(accepted_as: Mapping[UUID, Kind], books: Mapping[UUID, Books]) -> list[UUID]:
    """The orders that wait for a person, by their services or by the tracker, and were not placed to."""
    return [
        order_id
        for order_id, kind in accepted_as.items()
        if kind.end != MANUAL and MANUAL in _said_of(books[order_id])
    ]


def recovery_checks(found: Recovery, target: Target) -> list[Check]:
    """Whether it cost no more than it may."""
    return [
        Check(
            f"At least {target.kept:.0%} of the orders that had every reason to complete did.",
            _kept_problems(found, target),
        ),
        Check(
            f"{_counted(target.manual)} left to a person, but for those placed to be.",
            (f"{found.manual} orders wait for a person",) if found.manual > target.manual else (),
        ),
        Check(
            f"Everything has ended within {target.ended_within_seconds:.0f} s of healing.",
            _end_problems(found, target),
        ),
    ]


def why_not_ended(timeline: Timeline, limit_seconds: float, of_late_seconds: float) -> str:
    """What to say of orders that did not end in time: that they are late is another matter than lost."""
    in_flight = timeline.samples[-1].in_flight if timeline.samples else None
    flying = "nobody knows how many" if in_flight is None else in_flight
    ended = timeline.ended_of_late(of_late_seconds)
    verdict = (
        f"it could not catch up: {ended} ended in the last {of_late_seconds:.0f} s"
        if ended
        else f"they are stuck: none ended in the last {of_late_seconds:.0f} s"
    )
    return f"after {limit_seconds:.0f} s {flying} orders had not ended; {verdict}"


def _kept_problems(found: Recovery, target: Target) -> tuple[str, ...]:
    if found.kept is None or found.kept >= target.kept:
        return ()
    lost = found.sound - found.completed
    return (f"{found.kept_text} kept: {lost} of {found.sound} did not complete",)


def _end_problems(found: Recovery, target: Target) -> tuple[str, ...]:
    if found.ended_after_seconds is not None and found.ended_after_seconds <= target.ended_within_seconds:
        return ()
    if found.ended_after_seconds is None:
        return (f"the end was not seen: {found.ended_text}",)
    return (f"the last order ended after {found.ended_text}",)


def _said_of(book: Books) -> tuple[str, str]:
    return book.verdict, book.saga.state if book.saga else ""


def _counted(orders: int) -> str:
    return "No order is" if orders == 0 else f"At most {orders} orders are"
