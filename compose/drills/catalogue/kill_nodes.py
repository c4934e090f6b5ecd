"""kill -9 of the broker's nodes, one after the other, each once the one before it is in sync again."""

import asyncio
from collections.abc import Sequence

from compose.containers.cluster import NODES
from compose.drills.rig import Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import killed

AWAY_SECONDS = 5.0
PAUSE_SECONDS = 2.0


def killing(names: Sequence[str]) -> Drill:
    """The drill for some nodes."""

    async def strike(stage: Stage) -> None:
        for name in stage.random.sample(names, len(names)):
            with stage.broken(f"{name} dead"):
                async with killed(stage.rig, name):
                    await asyncio.sleep(AWAY_SECONDS)
            await asyncio.sleep(PAUSE_SECONDS)

    return Drill(
        "kill-nodes",
        "kill -9 of each node of the broker",
        strike,
        tuple(Deed("kill", name) for name in names),
    )


# So every queue's leader, and the stream's, is among the dead once, and every client's connection.
DRILL = killing(NODES)
