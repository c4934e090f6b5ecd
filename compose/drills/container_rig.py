"""Drills on containers, and on a cluster of them: three broker nodes, two replicas of every process."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

from compose.containers import provision
from compose.containers.engine import engine_problem
from compose.containers.env import broker_variable
from compose.containers.provision import Management, wait_for_replicas
from compose.containers.rig import AMQP_PORT, HTTP_PORT, NAMES, ContainerAddresses, ContainerRig
from compose.containers.stack import (
    CLUSTER_FILES,
    CLUSTER_PORTS,
    COMPOSE_FILE,
    NODES,
    PRIVATE_PORTS,
    delete_private,
    private_stack,
    private_variables,
    start_private,
)
from compose.drills import FOLDER
from compose.drills.rig import (
    ONE_NODE,
    ONE_RELEASE,
    SETTINGS,
    Deed,
    InThreads,
    Server,
    Settings,
    needs_nodes,
)
from compose.local.commands import Progress, RigError
from compose.local.ports import LOOPBACK
from compose.local.provision import ADMIN_USER
from compose.rig import Whereabouts
from compose.system import PROCESSES, SERVICE_NAMES, TRACKER

# The network on which processes reach a server; see compose.yaml.
NETWORKS: Mapping[Server, str] = {"postgres": "databases", "rabbitmq": "broker"}
CONNECTED = (*SERVICE_NAMES, TRACKER)
SET_ONCE = "containers are set when they are made: MURMURATION_PROVIDER=stripe in the environment"
NO_DELAYS = "that needs the kernel's netem, which the kernel of many an engine is built without"


class ContainerDrillRig(InThreads[ContainerRig]):
    """A `DrillRig` of containers. Who is cut off is taken off a network, which no connection notices."""

    def __init__(
        self,
        rig: ContainerRig,
        name: str = "containers",
        targets: Collection[str] = NAMES,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`environment`: what a person chose for these containers."""
        super().__init__(rig)
        self.name = name
        self._chosen = dict(environment)
        self._targets = targets
        self._where: ContainerAddresses | None = None
        self._cut: set[tuple[str, Server]] = set()

    @property
    def where(self) -> Whereabouts:
        return self.latest

    @property
    def latest(self) -> ContainerAddresses:
        """As of the last deed: asking the engine takes a while."""
        if self._where is None:
            self._where = self._rig.addresses
        return self._where

    def why_not(self, deed: Deed) -> str | None:
        if deed.verb == "delay":
            return NO_DELAYS
        if deed.verb == "replace":
            return ONE_RELEASE
        if deed.verb == "stop_all":
            return None
        if needs_nodes(deed):
            return ONE_NODE
        known = self._targets if deed.server is None else CONNECTED
        return None if deed.target in known else "there is no such container here"

    def why_not_set(self, settings: Settings) -> str | None:
        wanted = {pair for variables in settings.values() for pair in variables.items()}
        return None if wanted <= self._chosen.items() else SET_ONCE

    @asynccontextmanager
    async def ready_for(self, _deeds: Iterable[Deed], _settings: Settings) -> AsyncIterator[None]:
        """Nothing has to be prepared. Whoever is cut off in the end, for a drill broke off, is connected."""
        await self._look_around()
        try:
            yield
        finally:
            for name, server in list(self._cut):
                await self.reconnect(name, server)

    async def start(self, name: str) -> None:
        await super().start(name)
        await self._look_around()

    async def stop(self, name: str) -> None:
        await super().stop(name)
        await self._look_around()

    async def kill(self, name: str) -> None:
        await super().kill(name)
        await self._look_around()

    async def cut_off(self, name: str, server: Server) -> None:
        self._cut.add((name, server))
        await asyncio.to_thread(self._rig.disconnect, name, NETWORKS[server])

    async def reconnect(self, name: str, server: Server) -> None:
        await asyncio.to_thread(self._rig.connect, name, NETWORKS[server])
        self._cut.discard((name, server))

    async def delay(self, name: str, server: Server, seconds: float) -> None:
        raise NotImplementedError(NO_DELAYS)

    async def broker_control(self, *arguments: str) -> str:
        return await asyncio.to_thread(self._rig.rabbitmqctl, *arguments)

    @property
    def database_admin_url(self) -> str:
        return self.latest.postgres_admin_url

    async def stop_all(self) -> None:
        await asyncio.to_thread(self._rig.stop_all)

    async def start_all(self) -> None:
        await asyncio.to_thread(self._rig.start_all)
        await self._look_around()

    async def _look_around(self) -> None:
        self._where = await asyncio.to_thread(lambda: self._rig.addresses)


# The system that drills on containers break: a project of `docker compose` of their own.


PROJECT = "murmuration-drills"
DIGEST_CHARACTERS = 8


class ContainerSystem:
    """A `System` of containers, with ports, volumes and an image of its own.

    Another one, from more files than compose.yaml, is a subclass that says what differs.
    """

    kind = "compose"
    """Of the state folder's subfolder and of the project's name."""
    rig_name = "containers"
    files: tuple[Path, ...] = (COMPOSE_FILE,)
    ports: tuple[str, ...] = PRIVATE_PORTS
    """The variables of these files that say which port is published."""
    targets: tuple[str, ...] = NAMES
    """What can be broken; see `ContainerRig` for how replicas are called."""
    settings: Mapping[str, str] = SETTINGS

    def __init__(self, state_dir: Path, _progress: Progress, environment: Mapping[str, str]) -> None:
        folder = state_dir.absolute() / f"{FOLDER}-{self.kind}"
        self._stack = private_stack(
            folder, project_of(folder), files=self.files, ports=self.ports, variables=self.variables()
        )
        self._rig = ContainerRig(self._stack)
        self.rig = ContainerDrillRig(self._rig, self.rig_name, self.targets, environment)
        self.remains = f"docker compose --project-name {self._stack.project} logs"

    @property
    def left_something(self) -> bool:
        return self._stack.env_file.exists()

    def variables(self) -> Mapping[str, str]:
        """What its files get besides, such as ranges of ports."""
        return {}

    def up(self) -> None:
        start_private(self._stack, self.settings)
        # Healthy by Docker's checks; but these are a while apart.
        self._rig.start_all()

    def stop(self) -> None:
        self._rig.stop_all()

    def delete(self) -> None:
        if (problem := engine_problem()) is not None:
            raise RigError(f"no containers can run here: {problem}")
        delete_private(self._stack)


def project_of(folder: Path) -> str:
    """The same name for the same folder, and another one for that of another checkout."""
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:DIGEST_CHARACTERS]
    return f"{PROJECT}-{folder.name.removeprefix(f'{FOLDER}-')}-{digest}"


# Drills on a cluster of containers: three broker nodes, two replicas of every process.

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

    def __init__(
        self,
        rig: ContainerRig,
        name: str = "a cluster of containers",
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(rig, name, TARGETS, environment)
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
    async def ready_for(self, deeds: Iterable[Deed], settings: Settings) -> AsyncIterator[None]:
        """Whoever is apart in the end, for a drill broke off, is brought back."""
        async with super().ready_for(deeds, settings):
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
    files = CLUSTER_FILES
    ports = CLUSTER_PORTS

    def __init__(self, state_dir: Path, progress: Progress, environment: Mapping[str, str]) -> None:
        super().__init__(state_dir, progress, environment)
        self.rig = ClusterRig(self._rig, environment=environment)

    def variables(self) -> Mapping[str, str]:
        return private_variables()
