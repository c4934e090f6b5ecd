"""Drills on containers."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from compose.containers import private
from compose.containers.engine import engine_problem
from compose.containers.rig import NAMES, ContainerAddresses, ContainerRig
from compose.containers.stack import COMPOSE_FILE
from compose.drills import FOLDER
from compose.drills.rig import ONE_NODE, ONE_RELEASE, Deed, InThreads, Server, needs_nodes
from compose.drills.systems import SETTINGS
from compose.local.errors import RigError
from compose.local.progress import Progress
from compose.rig import Whereabouts
from compose.system import SERVICE_NAMES, TRACKER

# The network on which processes reach a server; see compose.yaml.
NETWORKS: Mapping[Server, str] = {"postgres": "databases", "rabbitmq": "broker"}
CONNECTED = (*SERVICE_NAMES, TRACKER)
NO_DELAYS = "that needs the kernel's netem, which the kernel of many an engine is built without"


class ContainerDrillRig(InThreads[ContainerRig]):
    """A `DrillRig` of containers. Who is cut off is taken off a network, which no connection is told."""

    def __init__(self, rig: ContainerRig, name: str = "containers", targets: Collection[str] = NAMES) -> None:
        super().__init__(rig)
        self.name = name
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

    @asynccontextmanager
    async def ready_for(self, _deeds: Iterable[Deed]) -> AsyncIterator[None]:
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


# --- The system that drills on containers break: a project of `docker compose` of their own


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
    ports: tuple[str, ...] = private.PORTS
    """The variables of these files that say which port is published."""
    targets: tuple[str, ...] = NAMES
    """What can be broken; see `ContainerRig` for how replicas are called."""
    settings: Mapping[str, str] = SETTINGS

    def __init__(self, state_dir: Path, _progress: Progress, _environment: Mapping[str, str]) -> None:
        folder = state_dir.absolute() / f"{FOLDER}-{self.kind}"
        self._stack = private.private_stack(
            folder, project_of(folder), files=self.files, ports=self.ports, variables=self.variables()
        )
        self._rig = ContainerRig(self._stack)
        self.rig = ContainerDrillRig(self._rig, self.rig_name, self.targets)
        self.remains = f"docker compose --project-name {self._stack.project} logs"

    @property
    def left_something(self) -> bool:
        return self._stack.env_file.exists()

    def variables(self) -> Mapping[str, str]:
        """What its files are told besides, such as ranges of ports."""
        return {}

    def up(self) -> None:
        private.up(self._stack, self.settings)
        # Healthy by Docker's checks; but these are a while apart.
        self._rig.start_all()

    def stop(self) -> None:
        self._rig.stop_all()

    def delete(self) -> None:
        if (problem := engine_problem()) is not None:
            raise RigError(f"no containers can run here: {problem}")
        private.delete(self._stack)


def project_of(folder: Path) -> str:
    """The same name for the same folder, and another one for that of another checkout."""
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:DIGEST_CHARACTERS]
    return f"{PROJECT}-{folder.name.removeprefix(f'{FOLDER}-')}-{digest}"
