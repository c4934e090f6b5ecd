"""The drills: what each breaks, when, and how it heals."""

from compose.drills.catalogue import provider, servers, services
from compose.drills.stage import Drill

# What takes several nodes and replicas. The others go there, too, but break no more than they do elsewhere.
CLUSTER_DRILLS: tuple[Drill, ...] = (
    servers.KILL_NODES,
    servers.FREEZE_NODE,
    servers.SPLIT,
    services.KILL_REPLICAS,
)
# Not run unless asked for: each takes ten minutes.
LONG_DRILLS: tuple[Drill, ...] = (services.LONG_OUTAGE, provider.CHARGED_ONCE)

DRILLS: tuple[Drill, ...] = (
    services.KILL_SERVICES,
    services.PAUSE_SERVICES,
    servers.RESTART_BROKER,
    servers.KILL_BROKER,
    servers.ALARM_BROKER,
    servers.STOP_DATABASE,
    servers.KILL_DATABASE,
    servers.READ_ONLY_DATABASE,
    servers.CUT_OFF_FROM_BROKER,
    servers.CUT_OFF_FROM_DATABASE,
    servers.SLOW_DATABASE,
    provider.PROVIDER_DOWN,
    provider.SLOW_PROVIDER,
    provider.LOST_ANSWERS,
    provider.PROVIDER_LIMITS,
    provider.WEBHOOKS_LATE,
    provider.PENDING_REFUNDS,
    services.EVERYTHING_TWICE,
    services.POISON,
    services.TRACKER_DOWN,
    services.ROLLING_RESTART,
    services.ROLLING_UPGRADE,
    services.FULL_STOP,
    services.FLASH_SALE,
    *CLUSTER_DRILLS,
    *LONG_DRILLS,
)
