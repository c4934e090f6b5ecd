"""What the tracker counts of sagas and steps, beside what every process counts.

Counted is what newly enters the view, by the one tracker that enters it, once it is committed; and only what
was published lately. So whatever is read again is not counted again, be it after a restart, after a rebuild
or because the stream was made anew; and what an empty view has to read first counts as the history that it
is.
"""

from datetime import datetime, timedelta
from uuid import UUID

from prometheus_client import Counter, Histogram

from events.facts import published_facts
from events.service import name_of
from events.telemetry.metrics import REGISTRY
from saga_tracker.deadlines import Rules
from saga_tracker.projection import ENDED, project
from saga_tracker.reading.recorder import Recorded
from saga_tracker.steps import STEPS
from saga_tracker.timeline import Taken

# What was published longer ago than that when it is read says nothing of how the system does now.
HISTORY_AFTER_SECONDS = 600.0

SAGA_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3_600)
STEP_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 600)
LATENESS_BUCKETS = (0.5, 1, 2.5, 5, 10, 30, 60, 300, 3_600)

FACTS = Counter(
    "murmuration_saga_facts_total",
    "Facts that joined a saga, by name without version.",
    ["fact"],
    registry=REGISTRY,
)
SAGA_SECONDS = Histogram(
    "murmuration_saga_seconds",
    "How long sagas took that ended, from their first fact to their last, by how they ended.",
    ["end"],
    buckets=SAGA_BUCKETS,
    registry=REGISTRY,
)
STEP_SECONDS = Histogram(
    "murmuration_saga_step_seconds",
    "How long steps took, from the fact that a service received to its answer, by service and fact.",
    ["step"],
    buckets=STEP_BUCKETS,
    registry=REGISTRY,
)
LATENESS_SECONDS = Histogram(
    "murmuration_saga_step_lateness_seconds",
    "How long after their deadline steps were done that were late, by service and fact.",
    ["step"],
    buckets=LATENESS_BUCKETS,
    registry=REGISTRY,
)
UNREADABLE = Counter(
    "murmuration_stream_unreadable_total",
    "Messages of the stream that tell of no saga.",
    registry=REGISTRY,
)


def _begin_at_zero() -> None:
    """A series that appears with its first event has no increase to show for it."""
    for name in sorted({name_of(kind) for kind in published_facts().values()}):
        FACTS.labels(name)
    for end in ENDED:
        SAGA_SECONDS.labels(end.value)
    for step in STEPS:
        LATENESS_SECONDS.labels(f"{step.service}:{name_of(step.trigger)}")


_begin_at_zero()


def recorded(batch: Recorded, rules: Rules, now: datetime) -> None:
    """Count what a batch brought into the view, once that is committed."""
    since = now - timedelta(seconds=HISTORY_AFTER_SECONDS)
    for order_id, new in batch.new.items():
        for fact in new:
            if (fact.stated_at or fact.read_at) >= since:
                FACTS.labels(fact.name).inc()
                taken = batch.taken.get((order_id, fact.fact_id))
                if taken is not None:
                    _count(taken, rules)
    for order_id, saga in batch.sagas.items():
        lately = any((fact.stated_at or fact.read_at) >= since for fact in batch.new.get(order_id, ()))
        if saga.ended_at is not None and lately and not _had_ended(order_id, batch):
            seconds = (saga.ended_at - saga.started_at).total_seconds()
            SAGA_SECONDS.labels(saga.state.value).observe(seconds)


def _had_ended(order_id: UUID, batch: Recorded) -> bool:
    """Whether the facts that were known before tell of an ended saga."""
    known = batch.known[order_id]
    before = known[: len(known) - len(batch.new.get(order_id, ()))]
    return bool(before) and project(before).ended_at is not None


def _count(taken: Taken, rules: Rules) -> None:
    STEP_SECONDS.labels(taken.step).observe(taken.seconds)
    late_seconds = taken.seconds - rules.seconds_of(taken.service, taken.trigger)
    if late_seconds > 0 and not taken.person:
        LATENESS_SECONDS.labels(taken.step).observe(late_seconds)
