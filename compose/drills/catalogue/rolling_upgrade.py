"""From the release before to this one under load, replica by replica, and back, on this one's schema.

In the order that `docs/production.md` gives: whoever is to learn something new before whoever says it.
"""

from itertools import product

from compose.drills.rig import REPLICAS, Deed
from compose.drills.stage import Drill, Stage
from compose.system import SERVICE_NAMES as SERVICES
from compose.system import TRACKER

NAMES = (*SERVICES, TRACKER)
# Twelve processes, of which some are starting all the time, on the same CPUs.
ORDERS_PER_SECOND = 6.0


async def strike(stage: Stage) -> None:
    for names, replica in product((SERVICES, (TRACKER,)), REPLICAS):
        with stage.broken(f"replica {replica} of {' '.join(names)} is upgraded"):
            await stage.rig.replace(names, replica, "this")
    for names, replica in product(((TRACKER,), SERVICES), REPLICAS):
        with stage.broken(f"replica {replica} of {' '.join(names)} is taken back"):
            await stage.rig.replace(names, replica, "before")


DRILL = Drill(
    "rolling-upgrade",
    "from the release before to this one and back, replica by replica",
    strike,
    tuple(Deed("replace", name) for name in NAMES),
    orders_per_second=ORDERS_PER_SECOND,
)
