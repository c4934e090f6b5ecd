"""kill -9 of each service, one after the other, two of them for long."""

import asyncio
from collections.abc import Mapping, Sequence

from compose.drills.rig import Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import killed
from compose.system import SERVICE_NAMES as SERVICES

# The last for longer than its step, the second telling and the grace after it take.
AWAY_SECONDS: Mapping[str, float] = {"inventory": 6.0, "payment": 15.0}
AWAY_SOON_SECONDS = (0.0, 2.0)
# Who is away for long comes last: until then there is little to catch up with.
IN_TURN = sorted(SERVICES, key=lambda name: AWAY_SECONDS.get(name, 0.0))


def killing(names: Sequence[str], away_seconds: Mapping[str, float] = AWAY_SECONDS) -> Drill:
    """The drill for some services. Who is not in `away_seconds` is started again soon."""

    async def strike(stage: Stage) -> None:
        for name in names:
            await stage.caught_up()
            with stage.broken(f"{name} dead"):
                async with killed(stage.rig, name):
                    soon = stage.random.uniform(*AWAY_SOON_SECONDS)
                    await asyncio.sleep(away_seconds.get(name, soon))

    return Drill(
        "kill-services",
        "kill -9 of each service",
        strike,
        tuple(Deed("kill", name) for name in names),
    )


DRILL = killing(IN_TURN)
