"""From the release before to this one under load, replica by replica, and back, on this one's schema."""

from compose.drills.rig import REPLICAS, SERVICES, TRACKER, Deed
from compose.drills.stage import Drill, Stage

NAMES = (*SERVICES, TRACKER)
# Twelve processes, of which some are starting all the time, on the same CPUs.
ORDERS_PER_SECOND = 6.0


async def strike(stage: Stage) -> None:
    for replica in REPLICAS:
        with stage.broken(f"replica {replica} of each is upgraded"):
            await stage.rig.replace(NAMES, replica, "this")
    for replica in REPLICAS:
        with stage.broken(f"replica {replica} of each is taken back"):
            await stage.rig.replace(NAMES, replica, "before")


DRILL = Drill(
    "rolling-upgrade",
    "from the release before to this one and back, replica by replica",
    strike,
    tuple(Deed("replace", name) for name in NAMES),
    orders_per_second=ORDERS_PER_SECOND,
)
