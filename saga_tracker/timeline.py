"""The timeline of a saga: which fact came because of which, and how long that took. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from events.service import Step, name_of
from saga_tracker.projection import SagaFact
from saga_tracker.steps import STEPS

# --- How long the steps of a saga took: from the fact that made it a service's turn to its answer. Pure


_ANSWERED_BY: dict[str, dict[str, Step]] = {}
for _step in STEPS:
    for _result in _step.results:
        _ANSWERED_BY.setdefault(name_of(_result), {})[name_of(_step.trigger)] = _step


@dataclass(frozen=True, slots=True)
class Taken:
    """A step that is done, and how long it took. `person`: it was a person's turn."""

    service: str
    trigger: str
    began_at: datetime
    answered_at: datetime
    person: bool

    @property
    def seconds(self) -> float:
        return (self.answered_at - self.began_at).total_seconds()

    @property
    def step(self) -> str:
        """Its name, as the deadlines' settings have it: `payment:inventory.stock_reserved`."""
        return f"{self.service}:{self.trigger}"


def step_taken(result: SagaFact, known: Iterable[SagaFact]) -> Taken | None:
    """The step that this fact ended, given the facts of its order; None where it answers none of them.

    It went on from the last fact before it that it can be the answer to. It counts from when they were read.
    """
    turns = _ANSWERED_BY.get(result.name)
    if not turns:
        return None
    earlier = [
        fact
        for fact in known
        if fact.name in turns and fact.read_at <= result.read_at and _meant(fact, turns)
    ]
    if not earlier:
        return None
    trigger = max(earlier, key=lambda fact: (fact.read_at, fact.fact_id))
    step = turns[trigger.name]
    return Taken(step.service, trigger.name, trigger.read_at, result.read_at, step.person)


def _meant(fact: SagaFact, turns: dict[str, Step]) -> bool:
    """What a person asks for is meant for one service."""
    return fact.service is None or fact.service == turns[fact.name].service


_LED_TO: dict[tuple[str, str], list[str]] = {}
for _step in STEPS:
    for _result in _step.results:
        _LED_TO.setdefault((_step.service, name_of(_result)), []).append(name_of(_step.trigger))


@dataclass(frozen=True, slots=True)
class Causation:
    """The fact that another came from. `directly`: without a call to the outside or a person in between."""

    fact_id: UUID
    name: str
    stated_at: datetime
    read_at: datetime
    directly: bool


def causation_of(fact: Mapping[str, Any], timeline: Sequence[Mapping[str, Any]]) -> Causation | None:
    """What a row of the timeline came from, or None where it began with a request.

    A fact's causation id names another fact, or else the call or the request whose outcome it is. Then it
    is the last fact before it that made it this service's turn to state such a fact.
    """
    for other in timeline:
        if other["fact_id"] == fact["causation_id"]:
            return _causation(other, directly=True)
    led_to = _LED_TO.get((fact["stated_by"], name_of(fact["wire_name"])), ())
    earlier = [
        other
        for other in timeline
        if name_of(other["wire_name"]) in led_to and other["read_at"] <= fact["read_at"]
    ]
    if not earlier:
        return None
    return _causation(max(earlier, key=lambda other: (other["read_at"], other["fact_id"])), directly=False)


def why_doubtful(fact: Mapping[str, Any], causation: Causation | None, limit: timedelta) -> str | None:
    """Why what a fact says of the time cannot be true, by more than `limit`; None where it can.

    That it was read late is no reason: it may have been published late, or the tracker was away.
    """
    stated_at: datetime = fact["stated_at"]
    if stated_at > fact["read_at"] + limit:
        return "it was read before that"
    if causation is not None and stated_at < min(causation.stated_at, causation.read_at) - limit:
        return "what it came from was stated after that"
    return None


def _causation(row: Mapping[str, Any], *, directly: bool) -> Causation:
    return Causation(row["fact_id"], name_of(row["wire_name"]), row["stated_at"], row["read_at"], directly)
