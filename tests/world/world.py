"""A world: where every order stands in every service and outside, and everything that may still happen."""

from collections.abc import Hashable
from typing import Any, NamedTuple

from events.decision import Call, Command, GaveUp, Outcome
from events.facts import Fact


class Inconsistent(Exception):
    """What must never happen has happened."""


class Known:
    """One value, interned: equal values are the same object, so comparing and hashing are quick."""

    __slots__ = ("serial", "value")

    def __init__(self, value: Any, serial: int) -> None:
        self.value, self.serial = value, serial


class Pool:
    """All values known so far."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Known] = {}

    def known(self, value: Hashable) -> Known:
        found = self._known.get(value)
        if found is None:
            found = self._known[value] = Known(value, len(self._known))
        return found


class Units(dict[str, int]):
    """A reservation's units, hashable."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


class Delivery(NamedTuple):
    """Something a service is yet to receive."""

    role: int
    what: Known


class Again(NamedTuple):
    """A failure that a service publishes once more, because what a person had it try again failed again."""

    fact: Known
    time: int


Standings = tuple[tuple[Known, ...], ...]


class World(NamedTuple):
    """Everything that can still make a difference."""

    standings: Standings
    """Per order its state in every service, by ROLES, and then what the outside world holds of it."""
    stock: Known
    pending: frozenset[Known] = frozenset()
    calls: frozenset[Known] = frozenset()
    late: frozenset[Known] = frozenset()
    """Requests that were given up on and are still on their way."""
    acts: int = 0
    """How often a person may still act on what failed for good."""
    events: int = 0
    """How often something may still become of a payment by itself."""
    expiring: frozenset[Known] = frozenset()
    """The expiries of approvals, which the tracker publishes only of what is held."""
    published: frozenset[Known] = frozenset()
    asked: frozenset[Known] = frozenset()


class Move(NamedTuple):
    """One thing that may happen next, in words, and the world it leads to. A world `may_rest` without it."""

    what: tuple[Any, ...]
    world: World
    may_rest: bool = False

    def __str__(self) -> str:
        return " ".join(map(in_words, self.what))


def with_state(standings: Standings, number: int, role: int, state: Known) -> Standings:
    """The same, but for one order's state in one service."""
    standing = standings[number]
    if standing[role] is state:
        return standings
    changed = (*standing[:role], state, *standing[role + 1 :])
    return (*standings[:number], changed, *standings[number + 1 :])


def fact_of(published: Known) -> Fact:
    """The fact, whichever time it was published."""
    value = published.value
    fact: Fact = value.fact.value if isinstance(value, Again) else value
    return fact


def in_words(part: Any) -> str:
    match part:
        case Known():
            return in_words(part.value)
        case Again():
            return f"{in_words(part.fact)} for the {part.time}. time"
        case Fact():
            return f"{part.wire_name.rpartition('.')[0]} of {part.order_id.int}"
        case Call():
            return f"{part.name} of {part.order_id.int}"
        case GaveUp(call, _, maybe_done):
            return f"{in_words(call)} is given up, {'maybe' if maybe_done else 'not'} done"
        case Command() | Outcome():
            return type(part).__name__
        case _:
            return str(part)
