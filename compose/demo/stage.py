"""What a scenario is made of, and what it may lay hands on."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from compose.demo.sabotage import Sabotage
from compose.demo.shop import Shop

Saga = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stage:
    """The running system: used through its front doors, and broken behind its back."""

    shop: Shop
    sabotage: Sabotage


Cue = Callable[[Stage, Saga], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Act:
    """Something that somebody outside does to an order, on a cue. `do` answers what is to be said of it."""

    cue: Cue
    notified_as: str
    do: Callable[[Stage, UUID], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One order. `statuses` is each service's own word for its end, `none` where it did not know of it;
    `fault` is what goes wrong, in two words."""

    name: str
    title: str
    fault: str
    point: str
    end: str
    statuses: Mapping[str, str]
    begin: Callable[[Stage, str], Awaitable[UUID]]
    """Places the order; is given what makes SKUs unique to this run."""
    acts: tuple[Act, ...] = ()
    """One after the other."""
    head_start: str | None = None
    """It takes long, so it begins before all others, and they begin once this fact of it was published."""


def states(saga: Saga, name: str) -> bool:
    """Whether a fact of this name is part of a saga's trail."""
    return any(fact["name"] == name for fact in saga["facts"])


def once(name: str) -> Cue:
    """The cue of a fact that was published."""

    async def published(_stage: Stage, saga: Saga) -> bool:
        return states(saga, name)

    return published


def given_up_after(name: str) -> Cue:
    """The cue of a dead letter of an order of which a fact was published."""

    async def given_up(stage: Stage, saga: Saga) -> bool:
        return states(saga, name) and bool(await stage.shop.dead_letters(UUID(saga["order_id"])))

    return given_up
