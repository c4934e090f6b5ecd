"""How long the steps of a saga took: from the fact that made it a service's turn to its answer. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from events.service import Step, name_of
from saga_tracker.projection import SagaFact
from saga_tracker.steps import STEPS

_ANSWERED_BY: dict[str, dict[str, Step]] = {}
for _step in STEPS:
    for _answer in _step.answers:
        _ANSWERED_BY.setdefault(name_of(_answer), {})[name_of(_step.heard)] = _step


@dataclass(frozen=True, slots=True)
class Taken:
    """A step that is done, and how long it took. `person`: it was a person's turn."""

    service: str
    heard: str
    began_at: datetime
    answered_at: datetime
    person: bool

    @property
    def seconds(self) -> float:
        return (self.answered_at - self.began_at).total_seconds()

    @property
    def step(self) -> str:
        """Its name, as the deadlines' settings have it: `payment:inventory.stock_reserved`."""
        return f"{self.service}:{self.heard}"


def step_taken(answer: SagaFact, known: Iterable[SagaFact]) -> Taken | None:
    """The step that this fact ended, given the facts of its order; None where it answers none of them.

    It went on from the last fact before it that it can be the answer to. It counts from when they were read.
    """
    turns = _ANSWERED_BY.get(answer.name)
    if not turns:
        return None
    earlier = [
        fact
        for fact in known
        if fact.name in turns and fact.read_at <= answer.read_at and _meant(fact, turns)
    ]
    if not earlier:
        return None
    heard = max(earlier, key=lambda fact: (fact.read_at, fact.fact_id))
    step = turns[heard.name]
    return Taken(step.service, heard.name, heard.read_at, answer.read_at, step.person)


def _meant(fact: SagaFact, turns: dict[str, Step]) -> bool:
    """What a person asks for is meant for one service."""
    return fact.service is None or fact.service == turns[fact.name].service
