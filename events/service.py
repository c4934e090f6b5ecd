"""A service as a value: its name and its `decide`, and all that follows from the types of `decide`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from types import UnionType
from typing import Any, Never, Union, get_args, get_origin, get_type_hints

from events.decision import Call, Decision
from events.facts.base import Fact

EXCHANGE = "facts"
DEAD_LETTER_EXCHANGE = "dead-letters"
# By a service's name to that service alone: what is late, or replayed by a person.
REDRIVE_EXCHANGE = "redrive"
# Where a dead letter goes that the broker gives up delivering, and the one queue behind it.
PARKED_EXCHANGE = "parked"
PARKED_QUEUE = "dead-letters.parked"
STREAM = "facts.stream"


@dataclass(frozen=True)
class Service:
    """One service. `package` is where it lives; its queue, bindings and documents derive from `decide`."""

    name: str
    decide: Callable[..., Decision[Any, Any, Any]]

    @property
    def package(self) -> str:
        return f"{self.name}_svc"

    @property
    def queue(self) -> str:
        return f"{self.name}.facts"

    @property
    def dead_letter_queue(self) -> str:
        return f"{self.name}.dead-letters"

    @cached_property
    def hears(self) -> tuple[type[Fact], ...]:
        """The facts `decide` takes, newest version each."""
        return tuple(kind for kind in _members(self._hints["heard"]) if issubclass(kind, Fact))

    @cached_property
    def states(self) -> tuple[type[Fact], ...]:
        """The facts `decide` may answer with; each must be this service's own to state."""
        _, facts, _ = get_args(self._hints["return"])
        states = tuple(kind for kind in _members(facts) if issubclass(kind, Fact))
        for fact in states:
            if fact.owner != self.name:
                raise TypeError(f"{self.name} cannot state {fact.wire_name}: it belongs to {fact.owner}")
        return states

    @cached_property
    def calls(self) -> dict[str, type[Call]]:
        """The calls `decide` may ask for, by the name they have in the calls table."""
        _, _, calls = get_args(self._hints["return"])
        return {kind.name: kind for kind in _members(calls) if issubclass(kind, Call)}

    @cached_property
    def binding_keys(self) -> tuple[str, ...]:
        """The routing keys its queue is bound to: every version of every fact it hears.

        Also versions nobody here knows yet: they must end as dead letters, not nowhere.
        """
        return tuple(sorted({f"{fact.owner}.{_bare_name(fact)}.*" for fact in self.hears}))

    @cached_property
    def case_keys(self) -> tuple[str, ...]:
        """The routing keys of its own facts that are cases for a person: copies become dead letters."""
        return tuple(sorted(f"{fact.owner}.{_bare_name(fact)}.*" for fact in self.states if fact.case))

    @cached_property
    def _hints(self) -> dict[str, Any]:
        function = self.decide.func if isinstance(self.decide, partial) else self.decide
        return get_type_hints(function)


def _bare_name(fact: type[Fact]) -> str:
    return fact.wire_name.split(".")[1]


def _members(annotation: Any) -> tuple[type, ...]:
    """The classes of a union, a class, or Never."""
    if annotation is Never:
        return ()
    if isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        return tuple(kind for member in get_args(annotation) for kind in _members(member))
    return (get_origin(annotation) or annotation,)
