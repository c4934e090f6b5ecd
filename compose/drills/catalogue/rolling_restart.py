"""Everything is restarted in an orderly way, one after the other, as a deployment does."""

from compose.drills.rig import POSTGRES, RABBITMQ, SANDBOX, SERVICES, TRACKER, Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import stopped

NAMES = (*SERVICES, TRACKER, SANDBOX, RABBITMQ, POSTGRES)


async def strike(stage: Stage) -> None:
    for name in NAMES:
        await stage.caught_up()
        with stage.broken(f"{name} restarts"):
            async with stopped(stage.rig, name):
                pass


DRILL = Drill(
    "rolling-restart",
    "everything is restarted, one after the other",
    strike,
    tuple(Deed("stop", name) for name in NAMES),
)
