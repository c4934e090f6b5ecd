"""Judges a system at rest after a drill: every invariant, and what only its client can know."""

from collections import Counter
from collections.abc import Mapping, Sequence
from uuid import UUID

import psycopg

from compose.check import SENTENCE as TRACKER_SENTENCE
from compose.check import Agreement, Findings
from compose.drills.load import Kind, Load
from compose.drills.outcome import Check, Recovery, Target, Timeline
from compose.rig import Whereabouts
from compose.system import TRACKER
from saga_tracker.consistency.rules import INVARIANTS, Violation
from saga_tracker.consistency.snapshot import NOTHING, Books, Snapshot, statuses_of

# What a drill's faults cost: how many of the orders that had every reason to complete did, how many are left
# to a person, and how soon it was over.


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
        if kind.end != MANUAL and MANUAL in _ends_of(books[order_id])
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


def _ends_of(book: Books) -> tuple[str, str]:
    return book.verdict, book.saga.state if book.saga else ""


def _counted(orders: int) -> str:
    return "No order is" if orders == 0 else f"At most {orders} orders are"


NONE_LOST = "No accepted order is lost: order_svc knows every one that it accepted."
ENDS_AS_ITS_KIND = "Every order ends in a way that its kind may, or is cancelled for being late."
NOTHING_GIVEN_UP = "No service gives up a fact of an order that a client placed."
ALL_WELL = "Every server and process runs and is ready."
AT_REST = "The system comes to rest."
DRILLS_OWN = "What this drill asks for besides."

READY = "ready"

# What was wrong before a drill is not held against it.
Known = set[tuple[str, str]]


def invariant_checks(findings: Findings, known: Known) -> list[Check]:
    """One check an invariant. What is found is entered into `known`."""
    new = [violation for violation in findings.violations if _key(violation) not in known]
    known.update(map(_key, findings.violations))
    return [
        Check(rule.sentence, tuple(str(violation) for violation in new if violation.invariant is rule))
        for rule in INVARIANTS
    ]


def _key(violation: Violation) -> tuple[str, str]:
    return violation.invariant.name, str(violation.order_id or violation.what)


def client_checks(accepted_as: Mapping[UUID, Kind], books: Mapping[UUID, Books]) -> list[Check]:
    """What the client that placed the orders has to say."""
    lost, wrong = [], []
    for order_id, kind in accepted_as.items():
        book = books.get(order_id, Books())
        if book.order == NOTHING:
            lost.append(f"order {order_id} was accepted, and is unknown")
        elif book.verdict not in kind.ends:
            wrong.append(f"order {order_id} is {book.verdict}, not {' or '.join(sorted(kind.ends))}")
    return [Check(NONE_LOST, tuple(lost)), Check(ENDS_AS_ITS_KIND, tuple(wrong))]


def rest_check(findings: Findings, books: Mapping[UUID, Books]) -> Check:
    """Whether everything that was on its way arrived."""
    problems = []
    for order_id in sorted(findings.moving):
        statuses = statuses_of(books.get(order_id, Books())).items()
        shown = ", ".join(f"{name} {status}" for name, status in statuses)
        problems.append(f"order {order_id} is still on its way: {shown}")
    return Check(AT_REST, tuple(problems))


def condition_check(conditions: Mapping[str, str]) -> Check:
    """Whether everything that should run does."""
    return Check(ALL_WELL, tuple(f"{name} is {how}" for name, how in conditions.items() if how != READY))


def agreement_check(agreement: Agreement, listed_before: int) -> Check:
    """What the tracker itself finds, over and above what it had found before."""
    new = agreement.listed - listed_before
    if new <= 0:
        return Check(TRACKER_SENTENCE)
    return Check(TRACKER_SENTENCE, (f"{new} differences are new; of all there are:", *agreement.examples))


async def given_up_check(where: Whereabouts, accepted: Sequence[UUID]) -> Check:
    """Whether a fact of one of these orders became a dead letter. Raises psycopg.Error."""
    query = "SELECT service, reason, detail FROM dead_letters WHERE order_id = ANY(%s) AND kind <> 'case'"
    url = where.database_url(TRACKER)
    async with await psycopg.AsyncConnection.connect(url) as connection:
        rows = await (await connection.execute(query, [list(accepted)])).fetchall()
    return Check(
        NOTHING_GIVEN_UP, tuple(f"{service}: {reason}: {detail}" for service, reason, detail in rows)
    )


def end_states(
    conditions: Mapping[str, str], snapshot: Snapshot, accepted: Mapping[UUID, Books]
) -> dict[str, str]:
    """Of every server and process how it is; of every service besides what it says of the drill's orders,
    and what waits in it."""
    counts: dict[str, Counter[str]] = {}
    for book in accepted.values():
        for service, status in statuses_of(book).items():
            counts.setdefault(service, Counter())[status] += 1
    backlogs = {backlog.service: backlog for backlog in snapshot.backlogs}
    shown = {}
    for name, condition in conditions.items():
        parts = [condition]
        parts += [f"{count} {status}" for status, count in sorted(counts.get(name, Counter()).items())]
        if (backlog := backlogs.get(name)) is not None:
            parts.append(f"{backlog.outbox} facts and {backlog.calls} calls waiting")
        shown[name] = ", ".join(parts)
    return shown
