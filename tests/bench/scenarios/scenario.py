"""What a scenario is."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench.orders import Kind
from tests.bench.results import Result, Round, Target
from tests.bench.stage import Stage

PATIENCE_SECONDS = 900


def patient(seconds: int) -> Mapping[str, str]:
    """Settings under which nobody is late for so long."""
    services = ("order", "inventory", "payment", "fulfillment", "notification")
    return {
        "MURMURATION_STEP_DEADLINE_SECONDS": json.dumps(dict.fromkeys(services, seconds)),
        "MURMURATION_SAGA_DEADLINE_SECONDS": str(seconds),
        "MURMURATION_OVERDUE_AFTER_SECONDS": str(seconds),
    }


# Where a backlog is the very point, waiting in it is not lateness: else the tracker has most of it cancelled.
PATIENT = patient(PATIENCE_SECONDS)


async def nothing_before(_stage: Stage) -> None:
    """What most scenarios need before their rounds."""


async def nothing_more(_stage: Stage, _result: Result) -> None:
    """What most scenarios have to add after their rounds."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One measurement, on a system made for it, which is empty before. `play` is one round of it."""

    name: str
    title: str
    play: Callable[[Stage], Awaitable[Round]]
    about_seconds: float
    """How long a round takes, roughly: it depends on how fast the system is."""
    about_more_seconds: float = 0.0
    """How long what comes before and after the rounds takes."""
    rounds: int | None = None
    """None: as many as were asked for."""
    targets: Sequence[Target] = ()
    """What its figures are wanted to be on two cores."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What the processes are told that differs from the defaults."""
    only: Kind | None = None
    """The one kind of order to place, in place of the mix."""
    also: Sequence[str] = ()
    """The wire names of facts to watch for, besides the ends of sagas."""
    lasting: bool = False
    """Whether what is watched for must survive the broker's restart."""
    instances: int = 1
    """How many of each service and of the tracker."""
    judged: bool = True
    """Whether the invariants are asked for after the rounds, over all orders."""
    counted: bool = True
    """Whether the servers' own counts are taken; that takes 20 s in which nothing happens."""
    main: bool = False
    """Whether it is played when nobody asks for all."""
    only_by_name: bool = False
    """Whether all does not mean this one, which takes too long."""
    statements: bool = False
    """Whether PostgreSQL counts statements, too. That costs it something, so not where the most is wanted."""
    prepare: Callable[[Stage], Awaitable[None]] = nothing_before
    """What is done first, and does not count."""
    finish: Callable[[Stage, Result], Awaitable[None]] = nothing_more
    """What is done last, and added to the result."""
