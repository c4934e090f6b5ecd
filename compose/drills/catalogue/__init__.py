"""The drills: what each breaks, when, and how it heals. A file for each kind of thing that breaks."""

from compose.drills.catalogue import broker, databases, messages, network, outside, processes
from compose.drills.stage import Drill

# What takes several nodes and replicas. The others go there, too, but break no more than they do elsewhere.
CLUSTER_DRILLS: tuple[Drill, ...] = (
    broker.KILL_NODES,
    broker.FREEZE_NODE,
    broker.SPLIT,
    processes.KILL_REPLICAS,
)
# Not run unless asked for: each takes ten minutes.
LONG_DRILLS: tuple[Drill, ...] = (processes.LONG_OUTAGE,)

DRILLS: tuple[Drill, ...] = (
    processes.KILL_SERVICES,
    processes.PAUSE_SERVICES,
    broker.RESTART_BROKER,
    broker.KILL_BROKER,
    broker.ALARM_BROKER,
    databases.STOP_DATABASE,
    databases.KILL_DATABASE,
    databases.READ_ONLY_DATABASE,
    network.CUT_OFF_FROM_BROKER,
    network.CUT_OFF_FROM_DATABASE,
    network.SLOW_DATABASE,
    outside.PROVIDER_DOWN,
    outside.SLOW_PROVIDER,
    outside.LOST_ANSWERS,
    messages.EVERYTHING_TWICE,
    messages.POISON,
    processes.TRACKER_DOWN,
    processes.ROLLING_RESTART,
    processes.ROLLING_UPGRADE,
    processes.FULL_STOP,
    messages.FLASH_SALE,
    *CLUSTER_DRILLS,
    *LONG_DRILLS,
)
