"""What services lean on is stopped, frozen, cut off or slow: broker, PostgreSQL, network."""

import asyncio
from collections.abc import Sequence

from compose.containers.stack import NODES
from compose.drills.rig import POSTGRES, RABBITMQ, Deed
from compose.drills.stage import (
    Drill,
    Stage,
    Victims,
    alarmed,
    cut_off,
    delayed,
    isolated,
    killed,
    paused,
    read_only,
    stopped,
)

# The broker is stopped in an orderly way and started again, as an upgrade does.


async def restart_broker(stage: Stage) -> None:
    with stage.broken("broker restarts"):
        async with stopped(stage.rig, RABBITMQ):
            pass


RESTART_BROKER = Drill("restart-broker", "the broker restarts", restart_broker, (Deed("stop", RABBITMQ),))


# kill -9 of the broker; it is away for a while.

BROKER_AWAY_SECONDS = 10.0


def killing_broker(away_seconds: float) -> Drill:
    """The drill with the broker away for so long."""

    async def strike(stage: Stage) -> None:
        with stage.broken("broker dead"):
            async with killed(stage.rig, RABBITMQ):
                await asyncio.sleep(away_seconds)

    return Drill(
        "kill-broker",
        f"kill -9 of the broker, away for {away_seconds:.0f} s",
        strike,
        (Deed("kill", RABBITMQ),),
    )


KILL_BROKER = killing_broker(BROKER_AWAY_SECONDS)


# The broker's memory is full, it says: who publishes is blocked, who consumes is not.

BLOCKED_SECONDS = 15.0


async def alarm_broker(stage: Stage) -> None:
    with stage.broken("broker takes no message"):
        async with alarmed(stage.rig):
            await asyncio.sleep(BLOCKED_SECONDS)


ALARM_BROKER = Drill(
    "alarm-broker",
    f"the broker's memory alarm is set for {BLOCKED_SECONDS:.0f} s",
    alarm_broker,
    (Deed("alarm", RABBITMQ),),
)


# kill -9 of the broker's nodes, one after the other, each once the one before it is in sync again.

NODE_AWAY_SECONDS = 5.0
BETWEEN_NODES_SECONDS = 2.0


def killing_nodes(names: Sequence[str]) -> Drill:
    """The drill for some nodes."""

    async def strike(stage: Stage) -> None:
        for name in stage.random.sample(names, len(names)):
            with stage.broken(f"{name} dead"):
                async with killed(stage.rig, name):
                    await asyncio.sleep(NODE_AWAY_SECONDS)
            await asyncio.sleep(BETWEEN_NODES_SECONDS)

    return Drill(
        "kill-nodes",
        "kill -9 of each node of the broker",
        strike,
        tuple(Deed("kill", name) for name in names),
    )


# So every queue's leader, and the stream's, is among the dead once, and every client's connection.
KILL_NODES = killing_nodes(NODES)


# A node of the broker is frozen, and goes on: it does not know that it was gone, nor what it missed.

# Longer than its peers (net_ticktime), and about as long as its clients, need to give it up.
FROZEN_SECONDS = 20.0


async def freeze_node(stage: Stage) -> None:
    name = stage.random.choice(NODES)
    with stage.broken(f"{name} frozen"):
        async with paused(stage.rig, name):
            await asyncio.sleep(FROZEN_SECONDS)


FREEZE_NODE = Drill(
    "freeze-node",
    "one node of the broker is frozen, and goes on",
    freeze_node,
    tuple(Deed("pause", name) for name in NODES),
)


# The network splits: one node of the broker is apart from the others and from its clients, silently.

# First so briefly that the nodes do not even notice, then for longer than that takes (net_ticktime).
APART_SECONDS = (4.0, 20.0)
BETWEEN_SPLITS_SECONDS = 2.0


async def split(stage: Stage) -> None:
    for apart_seconds in APART_SECONDS:
        name = stage.random.choice(NODES)
        with stage.broken(f"{name} apart"):
            async with isolated(stage.rig, name):
                await asyncio.sleep(apart_seconds)
        await asyncio.sleep(BETWEEN_SPLITS_SECONDS)


SPLIT = Drill(
    "split",
    "one node of the broker is apart from the others, and comes back",
    split,
    tuple(Deed("isolate", name) for name in NODES),
)


# PostgreSQL is stopped in an orderly way, away for longer than any step may take, and started again.

STOPPED_SECONDS = 15.0


async def stop_database(stage: Stage) -> None:
    with stage.broken("PostgreSQL stopped"):
        async with stopped(stage.rig, POSTGRES):
            await asyncio.sleep(STOPPED_SECONDS)


STOP_DATABASE = Drill(
    "stop-database",
    f"PostgreSQL is stopped for {STOPPED_SECONDS:.0f} s",
    stop_database,
    (Deed("stop", POSTGRES),),
)


# kill -9 of PostgreSQL, twice.

KILLED_TIMES = 2
DEAD_SECONDS = (0.0, 5.0)


async def kill_database(stage: Stage) -> None:
    for _ in range(KILLED_TIMES):
        await stage.caught_up()
        with stage.broken("PostgreSQL dead"):
            async with killed(stage.rig, POSTGRES):
                await asyncio.sleep(stage.random.uniform(*DEAD_SECONDS))


KILL_DATABASE = Drill("kill-database", "kill -9 of PostgreSQL", kill_database, (Deed("kill", POSTGRES),))


# PostgreSQL answers, and takes no change: its sessions live on, and fail at the first write.

READ_ONLY_SECONDS = 15.0


async def make_read_only(stage: Stage) -> None:
    with stage.broken("PostgreSQL is read-only"):
        async with read_only(stage.rig):
            await asyncio.sleep(READ_ONLY_SECONDS)


READ_ONLY_DATABASE = Drill(
    "read-only-database",
    f"PostgreSQL is read-only for {READ_ONLY_SECONDS:.0f} s",
    make_read_only,
    (Deed("make_read_only", POSTGRES),),
)


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

# The last for longer than it takes a service to give up a connection that is lost without a sign.
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
