"""Given a state, when a message comes, then a state, facts and calls: a line of a table, readable aloud.

`given` and `when` take several, and stand for every combination of them. Rows compare whole values, so what
is not written did not happen.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest

from events.decision import Call, CausalityViolated, Contradiction, Decision, GaveUp
from events.facts import Fact
from inventory_svc.decide import Shelf

Decide = Callable[[Any, Any], Decision[Any, Any, Any]]


@dataclass(frozen=True)
class Row:
    """One line: exactly this decision, or, where `decision` is None, what is raised instead."""

    state: Any
    message: Any
    decision: Decision[Any, Any, Any] | None
    raises: type[CausalityViolated | Contradiction] = CausalityViolated

    def check(self, decide: Decide) -> None:
        if self.decision is None:
            with pytest.raises(self.raises):
                decide(self.state, self.message)
        else:
            assert decide(self.state, self.message) == self.decision

    def __str__(self) -> str:
        if self.decision is None:
            then = _name(self.raises)
        elif self.decision == Decision(self.state):
            then = "nothing"
        else:
            then = " + ".join(map(_name, (self.decision.state, *self.decision.facts, *self.decision.calls)))
        return f"{_name(self.state)} | {_name(self.message)} | {then}"


@dataclass(frozen=True)
class When:
    states: tuple[Any, ...]
    message: tuple[Any, ...]

    def then(self, state: Any, *answers: Fact | Call) -> list[Row]:
        """It becomes `state`, states these facts and asks for these calls."""
        facts = tuple(answer for answer in answers if isinstance(answer, Fact))
        calls = tuple(answer for answer in answers if isinstance(answer, Call))
        return [Row(was, message, Decision(state, facts, calls)) for was, message in self._combinations]

    def nothing(self) -> list[Row]:
        """It stays as it is, and says nothing."""
        return [Row(was, message, Decision(was)) for was, message in self._combinations]

    def violates_causality(self) -> list[Row]:
        return [Row(was, message, None) for was, message in self._combinations]

    def contradicts(self) -> list[Row]:
        return [Row(was, message, None, Contradiction) for was, message in self._combinations]

    @property
    def _combinations(self) -> Iterable[tuple[Any, Any]]:
        return product(self.states, self.message)


@dataclass(frozen=True)
class Given:
    states: tuple[Any, ...]

    def when(self, *message: Any) -> When:
        return When(self.states, message)


def given(*states: Any) -> Given:
    return Given(states)


def given_up(call: Call, reason: str = "timeout") -> tuple[GaveUp[Call], GaveUp[Call]]:
    """Every attempt failed, and it may have been done, or was not for sure."""
    return GaveUp(call, reason, maybe_done=True), GaveUp(call, reason, maybe_done=False)


def rows(*groups: list[Row]) -> list[Row]:
    """One table of all these lines, in which nothing is said twice."""
    table = [row for group in groups for row in group]
    names = [(repr(row.state), repr(row.message)) for row in table]
    assert len(names) == len(set(names)), "two lines for the same state and the same thing heard"
    return table


def every(table: list[Row]) -> pytest.MarkDecorator:
    """Run a test once for every line, named by it."""
    return pytest.mark.parametrize("row", table, ids=str)


def _name(thing: Any) -> str:
    match thing:
        case None:
            return "none"
        case type():
            return re.sub(r"(?<!^)(?=[A-Z])", " ", thing.__name__).lower()
        case Fact():
            return thing.wire_name.rpartition(".")[0]
        case Call():
            return f"{thing.name}!"
        case GaveUp():
            return f"gave up {thing.call.name}, {'maybe' if thing.maybe_done else 'not'} done"
        case Shelf():
            return _name(thing.reservation)
        case _ if hasattr(thing, "status"):
            return f"{thing.status}{' (withdrawn)' if getattr(thing, 'withdrawn', False) else ''}"
        case _:
            return re.sub(r"(?<!^)(?=[A-Z])", " ", type(thing).__name__).lower()
