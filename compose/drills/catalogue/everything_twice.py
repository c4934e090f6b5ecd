"""Every fact is published twice, under the same id."""

import asyncio

from compose.drills.stage import Drill, Stage
from compose.drills.verbs import everything_twice

TWICE_SECONDS = 12.0
# As many as there must at least have been for the drill to mean anything.
REPEATED = 100


async def strike(stage: Stage) -> None:
    with stage.broken("every fact comes twice"):
        async with everything_twice(stage.rig.where) as repeated:
            await asyncio.sleep(TWICE_SECONDS)
    assert len(repeated) >= REPEATED, f"only {len(repeated)} facts came twice"


DRILL = Drill("everything-twice", "every message comes twice", strike)
