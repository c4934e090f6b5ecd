"""kill -9 of each service, one after the other."""

import asyncio
from collections.abc import Sequence

from compose.drills.rig import SERVICES, Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import killed

AWAY_SECONDS = (0.0, 2.0)
PAUSE_SECONDS = 1.0


def killing(names: Sequence[str]) -> Drill:
    """The drill for some services."""

    async def strike(stage: Stage) -> None:
        for name in names:
            with stage.broken(f"{name} dead"):
                async with killed(stage.rig, name):
                    await asyncio.sleep(stage.random.uniform(*AWAY_SECONDS))
            await asyncio.sleep(PAUSE_SECONDS)

    return Drill(
        "kill-services",
        "kill -9 of each service",
        strike,
        tuple(Deed("kill", name) for name in names),
    )


DRILL = killing(SERVICES)
