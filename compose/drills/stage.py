"""What a drill is made of, what it may lay hands on, and whom it befalls."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from uuid import UUID

from compose.demo.shop import Shop
from compose.drills.load import Load
from compose.drills.outcome import USUAL, Target, Timeline
from compose.drills.rig import Deed, DrillRig
from compose.system import SERVICE_NAMES
from saga_tracker.consistency.snapshot import Books

# Which services a fault befalls, one after the other: one that the seed draws, and then some always.


@dataclass(frozen=True, slots=True)
class Victims:
    """`always` says of each for how many seconds, of the drawn one `drawn_seconds` does; 0: none is drawn."""

    always: Mapping[str, float] = field(default_factory=dict)
    drawn_seconds: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """Everybody whom it may befall."""
        return SERVICE_NAMES if self.drawn_seconds else tuple(self.always)

    @property
    def longest_seconds(self) -> float:
        """How long it lasts for whom it lasts longest."""
        return max(self.drawn_seconds, *self.always.values())

    def in_turn(self, random: Random) -> Iterator[tuple[str, float]]:
        """Who, and for how long."""
        if self.drawn_seconds:
            others = [name for name in SERVICE_NAMES if name not in self.always]
            yield random.choice(others), self.drawn_seconds
        yield from self.always.items()


# What a drill finds wrong, over and above what is asked after every drill.
Problems = list[str]
# Before a fault: how little is under way once the system has caught up, and how long that may take.
CAUGHT_UP_SECONDS_OF_LOAD = 3.0
CATCHING_UP_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Stage:
    """The running system under load. `run_name` is unique to this drill and seed: for SKUs and keys."""

    rig: DrillRig
    shop: Shop
    load: Load
    random: Random
    timeline: Timeline
    run_name: str

    @contextmanager
    def broken(self, label: str) -> Iterator[None]:
        """Inside, something is broken: shown as a band of the timeline."""
        with self.timeline.fault(label):
            yield

    async def caught_up(self) -> None:
        """Before a fault: wait until little is under way, so that each meets a system at work as usual.

        Not for ever: where the machine is too slow for the load, the next one comes all the same.
        """
        little = CAUGHT_UP_SECONDS_OF_LOAD * self.load.per_second
        with suppress(TimeoutError):
            async with asyncio.timeout(CATCHING_UP_SECONDS):
                await self.timeline.in_flight_at_most(little)


async def nothing_more(_stage: Stage, _books: Mapping[UUID, Books]) -> Problems:
    """For a drill after which the usual questions are enough."""
    return []


@dataclass(frozen=True, slots=True)
class Drill:
    """One way to break the system."""

    name: str
    title: str
    strike: Callable[[Stage], Awaitable[None]]
    """Breaks and heals, while orders come in; whatever happens to it, it leaves nothing broken."""
    deeds: tuple[Deed, ...] = field(default=())
    """What the rig must be able to do for it."""
    verify: Callable[[Stage, Mapping[UUID, Books]], Awaitable[Problems]] = nothing_more
    """What is asked over and above, once all is at rest."""
    orders_per_second: float | None = None
    """The load, where it is not what the whole run has."""
    target: Target = USUAL
    """What it may cost."""
    limit_seconds: float = 150.0
    """How long its strike may take."""
