"""kill -9 of the broker; it is away for a while."""

import asyncio

from compose.drills.rig import RABBITMQ, Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import killed

AWAY_SECONDS = 10.0


def killing(away_seconds: float) -> Drill:
    """The drill with the broker away for so long."""

    async def strike(stage: Stage) -> None:
        with stage.broken("broker dead"):
            async with killed(stage.rig, RABBITMQ):
                await asyncio.sleep(away_seconds)

    return Drill(
        "kill-broker",
        f"kill -9 of the broker, away for {away_seconds:.0f} s",
        strike,
        (Deed("kill", RABBITMQ),),
    )


DRILL = killing(AWAY_SECONDS)
