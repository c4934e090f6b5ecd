"""Everything is restarted in an orderly way, one after the other, as a deployment does."""

from compose.drills.rig import POSTGRES, RABBITMQ, Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import stopped
from compose.local.processes import SANDBOX
from compose.system import SERVICE_NAMES as SERVICES
from compose.system import TRACKER

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
