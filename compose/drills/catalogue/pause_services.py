"""Each service is frozen beyond its deadline, one after the other, and goes on: a zombie with stale work."""

import asyncio
from collections.abc import Sequence

from compose.drills.rig import SERVICES, Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import paused

# Longer than any step, the second telling and the grace after it take: see the drills' settings.
FROZEN_SECONDS = 8.5
PAUSE_SECONDS = 1.0


def pausing(names: Sequence[str]) -> Drill:
    """The drill for some services."""

    async def strike(stage: Stage) -> None:
        for name in names:
            with stage.broken(f"{name} frozen"):
                async with paused(stage.rig, name):
                    await asyncio.sleep(FROZEN_SECONDS)
            await asyncio.sleep(PAUSE_SECONDS)

    return Drill(
        "pause-services",
        "each service is frozen beyond its deadline, and goes on",
        strike,
        tuple(Deed("pause", name) for name in names),
    )


DRILL = pausing(SERVICES)
