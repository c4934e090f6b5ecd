"""Drills on containers."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager

from compose.containers.rig import NAMES, ContainerAddresses, ContainerRig
from compose.drills.rig import ONE_NODE, ONE_RELEASE, Deed, InThreads, Server, needs_nodes
from compose.system import SERVICE_NAMES as SERVICES
from compose.system import TRACKER
from compose.whereabouts import Whereabouts

# The network on which processes reach a server; see compose.yaml.
NETWORKS: Mapping[Server, str] = {"postgres": "databases", "rabbitmq": "broker"}
CONNECTED = (*SERVICES, TRACKER)
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
