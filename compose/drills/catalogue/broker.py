"""The broker, or a node of it, is restarted, killed, frozen, full or apart from the others."""

import asyncio
from collections.abc import Sequence

from compose.containers.stack import NODES
from compose.drills.rig import RABBITMQ, Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import alarmed, isolated, killed, paused, stopped

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
