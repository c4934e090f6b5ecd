"""One small file a drill: what it breaks, when, and how it heals."""

from compose.drills.catalogue import (
    alarm_broker,
    cut_off_from_broker,
    cut_off_from_database,
    everything_twice,
    flash_sale,
    freeze_node,
    full_stop,
    kill_broker,
    kill_database,
    kill_nodes,
    kill_replicas,
    kill_services,
    long_outage,
    lost_answers,
    pause_services,
    poison,
    provider_down,
    read_only_database,
    restart_broker,
    rolling_restart,
    rolling_upgrade,
    slow_database,
    slow_provider,
    split,
    stop_database,
    tracker_down,
)
from compose.drills.stage import Drill

# What takes several nodes and replicas. The others go there, too, but break no more than they do elsewhere.
CLUSTER_DRILLS: tuple[Drill, ...] = (kill_nodes.DRILL, freeze_node.DRILL, split.DRILL, kill_replicas.DRILL)
# Not run unless asked for: each takes ten minutes.
LONG_DRILLS: tuple[Drill, ...] = (long_outage.DRILL,)

DRILLS: tuple[Drill, ...] = (
    kill_services.DRILL,
    pause_services.DRILL,
    restart_broker.DRILL,
    kill_broker.DRILL,
    alarm_broker.DRILL,
    stop_database.DRILL,
    kill_database.DRILL,
    read_only_database.DRILL,
    cut_off_from_broker.DRILL,
    cut_off_from_database.DRILL,
    slow_database.DRILL,
    provider_down.DRILL,
    slow_provider.DRILL,
    lost_answers.DRILL,
    everything_twice.DRILL,
    poison.DRILL,
    tracker_down.DRILL,
    rolling_restart.DRILL,
    rolling_upgrade.DRILL,
    full_stop.DRILL,
    flash_sale.DRILL,
    *CLUSTER_DRILLS,
    *LONG_DRILLS,
)
