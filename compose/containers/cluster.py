"""The cluster: compose.yaml with cluster.yaml over it. Three broker nodes, replicas of every process.

Runs on a bare Python, so it imports nothing but the standard library.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from compose.containers.env import FOLDER
from compose.containers.private import private_stack
from compose.containers.stack import COMPOSE_FILE, Stack

FILES = (COMPOSE_FILE, FOLDER / "cluster.yaml")
PROJECT = "murmuration-cluster"
NODES = ("rabbitmq", "rabbitmq-2", "rabbitmq-3")
_RANGES = re.compile(r"\$\{(\w+_PORTS):-")

# Of a cluster of one's own, for tests and drills: the variables that say which port is published.
PORTS = (
    *("SANDBOX_PORT", "POSTGRES_PORT"),
    *("AMQP_PORT", "AMQP_PORT_2", "AMQP_PORT_3"),
    *("RABBITMQ_MANAGEMENT_PORT", "RABBITMQ_MANAGEMENT_PORT_2", "RABBITMQ_MANAGEMENT_PORT_3"),
)
PRIVATE_REPLICAS = 2


def cluster_stack() -> Stack:
    """A person's cluster, beside the stack of compose.yaml alone: with volumes of its own."""
    return Stack(PROJECT, files=FILES)


def private_cluster(folder: Path, project: str) -> Stack:
    """Another one, with secrets and settings in a folder of its own, on ports that are free."""
    return private_stack(folder, project, files=FILES, ports=PORTS, variables=private_variables())


def private_variables() -> Mapping[str, str]:
    """What a cluster of one's own is told besides: each replica takes any port that is free."""
    anywhere = dict.fromkeys(_RANGES.findall(FILES[-1].read_text()), "0")
    return {**anywhere, "REPLICAS": str(PRIVATE_REPLICAS)}
