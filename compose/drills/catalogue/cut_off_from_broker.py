"""Services lose the broker, but not their databases: what they commit waits in their outboxes."""

import asyncio
from collections.abc import Mapping

from compose.drills.rig import RABBITMQ, Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import cut_off

# Where nobody tells a connection that it is lost, the first comes back to the one it had; the second is away
# for longer than three heartbeats, and has given it up.
AWAY_SECONDS: Mapping[str, float] = {"order": 9.0, "payment": 18.0}
PAUSE_SECONDS = 2.0


def cutting_off(away_seconds: Mapping[str, float]) -> Drill:
    """The drill for some services, each cut off for so long."""

    async def strike(stage: Stage) -> None:
        for name, seconds in away_seconds.items():
            with stage.broken(f"{name} has no broker"):
                async with cut_off(stage.rig, name, RABBITMQ):
                    await asyncio.sleep(seconds)
            await asyncio.sleep(PAUSE_SECONDS)

    return Drill(
        "cut-off-from-broker",
        "a service is cut off from the broker, not from its database",
        strike,
        tuple(Deed("cut_off", name, RABBITMQ) for name in away_seconds),
    )


DRILL = cutting_off(AWAY_SECONDS)
