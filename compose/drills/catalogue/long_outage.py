"""Payment is dead for five minutes, which is longer than anybody waits for it."""

import asyncio

from compose.drills.outcome import Target
from compose.drills.rig import Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import killed

NAME = "payment"
AWAY_SECONDS = 300.0

DEAD_FOR_LONG = Target(
    kept=0.0,
    why=(
        "Past its patience a service that is down is late, and intake refuses once the oldest open order is "
        "too old: what was accepted before may be cancelled, whole, and none of it may be left to a person."
    ),
)


async def strike(stage: Stage) -> None:
    with stage.broken(f"{NAME} dead"):
        async with killed(stage.rig, NAME):
            await asyncio.sleep(AWAY_SECONDS)


DRILL = Drill(
    "long-outage",
    "payment is dead for five minutes",
    strike,
    (Deed("kill", NAME),),
    target=DEAD_FOR_LONG,
    limit_seconds=2 * AWAY_SECONDS,
)
