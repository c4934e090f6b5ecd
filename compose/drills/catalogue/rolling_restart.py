"""Everything is restarted in an orderly way, one after the other, as a deployment does."""

from compose.drills.rig import POSTGRES, RABBITMQ, SANDBOX, SERVICES, TRACKER, Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import stopped

NAMES = (*SERVICES, TRACKER, SANDBOX, RABBITMQ, POSTGRES)
# Something is starting all the time, on the same CPUs: with more orders what waits outlasts the drill.
ORDERS_PER_SECOND = 15.0


async def strike(stage: Stage) -> None:
    for name in NAMES:
        with stage.broken(f"{name} restarts"):
            async with stopped(stage.rig, name):
                pass


DRILL = Drill(
    "rolling-restart",
    "everything is restarted, one after the other",
    strike,
    tuple(Deed("stop", name) for name in NAMES),
    orders_per_second=ORDERS_PER_SECOND,
)
