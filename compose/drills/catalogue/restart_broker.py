"""The broker is stopped in an orderly way and started again, as an upgrade does."""

from compose.drills.rig import RABBITMQ, Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import stopped


async def strike(stage: Stage) -> None:
    with stage.broken("broker restarts"):
        async with stopped(stage.rig, RABBITMQ):
            pass


DRILL = Drill("restart-broker", "the broker restarts", strike, (Deed("stop", RABBITMQ),))
