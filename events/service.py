"""A service as a value: what the others must know of it. Most of it follows from the types of `decide`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache, cached_property, partial
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


# How long a service may take for a step, and for how long an outage of it makes none of its orders late.
STEP_DEADLINE_SECONDS = 5.0
PATIENCE_SECONDS = 120.0
# Of a service that says nothing of its place: behind all that do.
LAST = 1_000


@cache
def name_of(kind: type[Fact] | str) -> str:
    """A fact's name without its version, as people say it: `payment.captured`. Takes wire names too."""
    wire_name = kind if isinstance(kind, str) else kind.wire_name
    return wire_name.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class Step:
    """After `trigger` it is the service's turn; any one of `results` ends the turn.

    `person`: the service has done its part, and what it is to publish next depends on a person.
    `deadline_seconds`: how long it may take, where that is not what its service's steps take; it counts for
    itself then, and not as part of the time of the whole order, for it is waited for elsewhere. `since`: a
    step that was added to a choreography which runs is not owed for what was received before, so what ended
    stays ended; and late, its service is also asked, for a replica of the release before does it and does
    not publish it. `knowing`: what it cannot answer without, so that its answer is the sign of both, and late
    both are sent once more. `service` is filled in by the service that lists the step.
    """

    trigger: type[Fact]
    results: tuple[type[Fact], ...]
    person: bool = False
    deadline_seconds: float | None = None
    since: datetime | None = None
    knowing: type[Fact] | None = None
    service: str = ""

    def owed_for(self, read_at: datetime, stated_at: datetime | None = None) -> bool:
        """Whether it is owed for a fact that was first read then, and published then if that is known.

        A tracker that lost its database reads old facts today: they are old all the same.
        """
        return self.since is None or min(read_at, stated_at or read_at) >= self.since

    @property
    def own(self) -> bool:
        """Whether it goes on from a fact of its own: then there is nothing that it should have received."""
        return self.trigger.owner == self.service


@dataclass(frozen=True)
class Service:
    """One service, as the others know it. Queue, bindings and documents derive from the types of `decide`.

    `position`: where lists of services show it. `steps`: after which fact it owes which, one for all that it
    subscribes to. `since`: from when on it owes them, if it joins a system which runs already.
    `completes`: whether an order is COMPLETED only once it has done what it owes after `order.confirmed`.
    `statuses_done`, `statuses_undone`: the final statuses of its row for a completed and for a cancelled
    order; "none" is that it has no row. `statuses_after`: by the fact, in which statuses it has published it.
    """

    name: str
    decide: Callable[..., Decision[Any, Any, Any]]
    position: int = LAST
    steps: tuple[Step, ...] = ()
    since: datetime | None = None
    completes: bool = True
    step_deadline_seconds: float = STEP_DEADLINE_SECONDS
    patience_seconds: float = PATIENCE_SECONDS
    statuses_done: tuple[str, ...] = ()
    statuses_undone: tuple[str, ...] = ()
    statuses_after: Mapping[type[Fact], tuple[str, ...]] = field(default_factory=dict)

    @property
    def package(self) -> str:
        """Where it lives: the package with its `decide` also has its migrations, and runs as its process."""
        return self._function.__module__.rpartition(".")[0]

    @cached_property
    def owed(self) -> tuple[Step, ...]:
        """Its steps, each with its name on it and with the date since when it is owed."""
        return tuple(replace(step, service=self.name, since=step.since or self.since) for step in self.steps)

    @property
    def queue(self) -> str:
        return f"{self.name}.facts"

    @property
    def dead_letter_queue(self) -> str:
        return f"{self.name}.dead-letters"

    @cached_property
    def subscribes_to(self) -> tuple[type[Fact], ...]:
        """The facts `decide` takes, newest version each."""
        return tuple(kind for kind in _members(self._hints["message"]) if issubclass(kind, Fact))

    @cached_property
    def publishes(self) -> tuple[type[Fact], ...]:
        """The facts `decide` may answer with; each must be this service's own to publish."""
        _, facts, _ = get_args(self._hints["return"])
        published = tuple(kind for kind in _members(facts) if issubclass(kind, Fact))
        for fact in published:
            if fact.owner != self.name:
                raise TypeError(f"{self.name} cannot publish {fact.wire_name}: it belongs to {fact.owner}")
        return published

    @cached_property
    def calls(self) -> dict[str, type[Call]]:
        """The calls `decide` may ask for, by the name they have in the calls table."""
        _, _, calls = get_args(self._hints["return"])
        return {kind.name: kind for kind in _members(calls) if issubclass(kind, Call)}

    @cached_property
    def binding_keys(self) -> tuple[str, ...]:
        """The routing keys its queue is bound to: every version of every fact it receives.

        Also versions nobody here knows yet: they must end as dead letters, not nowhere.
        """
        return tuple(sorted({f"{fact.owner}.{_bare_name(fact)}.*" for fact in self.subscribes_to}))

    @cached_property
    def case_keys(self) -> tuple[str, ...]:
        """The routing keys of its own facts that are cases for a person: copies become dead letters."""
        return tuple(sorted(f"{fact.owner}.{_bare_name(fact)}.*" for fact in self.publishes if fact.case))

    @cached_property
    def _hints(self) -> dict[str, Any]:
        return get_type_hints(self._function)

    @property
    def _function(self) -> Callable[..., Decision[Any, Any, Any]]:
        return self.decide.func if isinstance(self.decide, partial) else self.decide


def _bare_name(fact: type[Fact]) -> str:
    return fact.wire_name.split(".")[1]


def _members(annotation: Any) -> tuple[type, ...]:
    """The classes of a union, a class, or Never."""
    if annotation is Never:
        return ()
    if isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        return tuple(kind for member in get_args(annotation) for kind in _members(member))
    return (get_origin(annotation) or annotation,)
