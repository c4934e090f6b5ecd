"""The network between services and their servers is cut, or slow."""

import asyncio

from compose.drills.rig import POSTGRES, RABBITMQ, Deed
from compose.drills.stage import Drill, Stage, Victims
from compose.drills.verbs import cut_off, delayed

# Services lose the broker, but not their databases: what they commit waits in their outboxes.

# Where nobody tells a connection that it is lost, most come back to the one they had; the last is away for
# longer than three heartbeats, and has given it up.
WITHOUT_BROKER = Victims({"inventory": 6.0, "payment": 18.0}, drawn_seconds=6.0)


def cutting_off_from_broker(victims: Victims) -> Drill:
    """The drill for some services."""

    async def strike(stage: Stage) -> None:
        for name, seconds in victims.in_turn(stage.random):
            await stage.caught_up()
            with stage.broken(f"{name} has no broker"):
                async with cut_off(stage.rig, name, RABBITMQ):
                    await asyncio.sleep(seconds)

    return Drill(
        "cut-off-from-broker",
        f"a service is cut off from the broker for up to {victims.longest_seconds:.0f} s",
        strike,
        tuple(Deed("cut_off", name, RABBITMQ) for name in victims.names),
    )


CUT_OFF_FROM_BROKER = cutting_off_from_broker(WITHOUT_BROKER)


# Services lose their databases, but not the broker: what they receive goes unacknowledged.

# The last for longer than it takes a service to give up a connection that nobody told that it is lost.
WITHOUT_DATABASE = Victims({"payment": 6.0, "inventory": 16.0}, drawn_seconds=6.0)


async def cut_off_from_database(stage: Stage) -> None:
    for name, seconds in WITHOUT_DATABASE.in_turn(stage.random):
        await stage.caught_up()
        with stage.broken(f"{name} has no database"):
            async with cut_off(stage.rig, name, POSTGRES):
                await asyncio.sleep(seconds)


CUT_OFF_FROM_DATABASE = Drill(
    "cut-off-from-database",
    f"a service is cut off from its database for up to {WITHOUT_DATABASE.longest_seconds:.0f} s",
    cut_off_from_database,
    tuple(Deed("cut_off", name, POSTGRES) for name in WITHOUT_DATABASE.names),
)


# Everything between inventory and its database takes longer, as across a bad network.

FAR_AWAY = "inventory"
LATENCY_SECONDS = 0.1
SLOW_SECONDS = 10.0


async def slow_database(stage: Stage) -> None:
    with stage.broken(f"{FAR_AWAY}'s database far away"):
        async with delayed(stage.rig, FAR_AWAY, POSTGRES, LATENCY_SECONDS):
            await asyncio.sleep(SLOW_SECONDS)


SLOW_DATABASE = Drill(
    "slow-database",
    "100 ms each way between inventory and its database",
    slow_database,
    (Deed("delay", FAR_AWAY, POSTGRES),),
)
