"""Drills on a cluster of containers: three broker nodes, two replicas of every process."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from compose.containers import cluster, provision
from compose.containers.cluster import NODES
from compose.containers.env import broker_variable
from compose.containers.provision import Management, wait_for_replicas
from compose.containers.rig import AMQP_PORT, HTTP_PORT, NAMES, ContainerAddresses, ContainerRig
from compose.drills.container_rig import ContainerDrillRig, ContainerSystem
from compose.drills.rig import Deed, needs_nodes
from compose.local.errors import RigError
from compose.local.ports import LOOPBACK
from compose.local.progress import Progress
from compose.local.rabbitmq import ADMIN_USER
from compose.rig import Whereabouts
from compose.system import PROCESSES

# Whatever has a database has replicas.
REPLICATED = tuple(spec.name for spec in PROCESSES if spec.has_database)
TARGETS = (*NAMES, *NODES[1:], *(f"{name}-2" for name in REPLICATED))
# On the one are its peers and its clients; by the other its ports are published.
NETWORKS_OF_A_NODE = ("broker", "outside")
MANAGEMENT_PORT = 15672
# Some seconds is what it takes; a second between two looks.
IN_SYNC_ATTEMPTS = 60


class AnyOfThem:
    """Where a client of a cluster goes: to any node and any replica that runs, drawn anew each time."""

    def __init__(self, latest: Callable[[], ContainerAddresses]) -> None:
        self._latest = latest

    @property
    def database_passwords(self) -> Mapping[str, str]:
        return self._latest().database_passwords

    @property
    def admin_token(self) -> str:
        return self._latest().admin_token

    @property
    def token(self) -> str:
        return self._latest().token

    def database_url(self, name: str) -> str:
        return self._latest().database_url(name)

    def broker_url(self, user: str) -> str:
        return f"amqp://{user}:{self._latest().secrets[broker_variable(user)]}@{self._any(NODES, AMQP_PORT)}/"

    def http(self, name: str) -> str:
        return f"http://{self._any((name,), HTTP_PORT)}"

    def _any(self, services: Iterable[str], port: int) -> str:
        found = [one for one in self._latest().containers if one.service in services and one.runs]
        reached = [one.ports[port] for one in found if one.ports.get(port)]
        if not reached:
            raise RigError(f"no container of {', '.join(services)} runs")
        return f"{LOOPBACK}:{random.choice(reached)}"  # noqa: S311 - not a secret


class ClusterRig(ContainerDrillRig):
    """A `DrillRig` of a cluster. `order-2` is the second replica of `order`, the first is `order`."""

    def __init__(self, rig: ContainerRig, name: str = "a cluster of containers") -> None:
        super().__init__(rig, name, TARGETS)
        self._isolated: set[str] = set()

    @property
    def where(self) -> Whereabouts:
        """As of the last deed, whatever it is asked."""
        return AnyOfThem(lambda: self.latest)

    def why_not(self, deed: Deed) -> str | None:
        if needs_nodes(deed):
            return None if deed.target in NODES else "there is no such node here"
        return super().why_not(deed)

    @asynccontextmanager
    async def ready_for(self, deeds: Iterable[Deed]) -> AsyncIterator[None]:
        """Whoever is apart in the end, for a drill broke off, is brought back."""
        async with super().ready_for(deeds):
            try:
                yield
            finally:
                for name in list(self._isolated):
                    await self.rejoin(name)

    async def start(self, name: str) -> None:
        """A node has started once it is a member of every queue again."""
        await super().start(name)
        if name in NODES:
            await self._in_sync(name)

    async def resume(self, name: str) -> None:
        """A node that goes on serves nobody at first, and begins anew, if it was given up meanwhile."""
        await super().resume(name)
        if name in NODES:
            await self._in_sync(name)
            await super().start(name)

    async def isolate(self, name: str) -> None:
        self._isolated.add(name)
        for network in NETWORKS_OF_A_NODE:
            await asyncio.to_thread(self._rig.disconnect, name, network)

    async def rejoin(self, name: str) -> None:
        for network in NETWORKS_OF_A_NODE:
            await asyncio.to_thread(self._rig.connect, name, network)
        self._isolated.discard(name)
        # First: one that was apart for long serves nobody at first, and begins anew.
        await self._in_sync(name)
        await super().start(name)

    async def start_all(self) -> None:
        await super().start_all()
        await self._in_sync()

    async def _in_sync(self, newcomer: str | None = None) -> None:
        """Wait until every queue, and the stream, has a member online on every node.

        A newcomer is not asked: it may still believe what was so before.
        """
        others = [node for node in NODES if node not in (newcomer, *self._isolated)]
        await asyncio.to_thread(wait_until_in_sync, self._rig, others)


def wait_until_in_sync(rig: ContainerRig, asked: Sequence[str] = NODES) -> None:
    """Ask one of these nodes that runs. Raises RigError naming what is not in sync."""
    wait_for_replicas(_management(rig, asked), [f"rabbit@{node}" for node in NODES], IN_SYNC_ATTEMPTS)


def members_online(rig: ContainerRig) -> dict[str, set[str]]:
    """On which nodes each queue, and the stream, has a member that lives. Raises RigError."""
    return provision.members_online(_management(rig))


def _management(rig: ContainerRig, asked: Sequence[str] = NODES) -> Management:
    where = rig.addresses
    nodes = [one for one in where.containers if one.service in asked and one.status == "running"]
    if not nodes:
        raise RigError("no node of the broker runs")
    url = f"http://{LOOPBACK}:{nodes[0].ports[MANAGEMENT_PORT]}"
    return Management(url, where.secrets[broker_variable(ADMIN_USER)])


class ClusterSystem(ContainerSystem):
    """A `System` that is a cluster of containers."""

    kind = "cluster"
    files = cluster.FILES
    ports = cluster.PORTS

    def __init__(self, state_dir: Path, progress: Progress, environment: Mapping[str, str]) -> None:
        super().__init__(state_dir, progress, environment)
        self.rig = ClusterRig(self._rig)

    def variables(self) -> Mapping[str, str]:
        return cluster.private_variables()
