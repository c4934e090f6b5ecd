"""Drills on local processes, and the system of local processes that they are made for."""

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from compose.drills import FOLDER
from compose.drills.proxy import Proxy, proxy_to
from compose.drills.rig import (
    ONE_NODE,
    POSTGRES,
    RABBITMQ,
    REPLICAS,
    Deed,
    InThreads,
    Release,
    Server,
    drill_environment,
    needs_nodes,
)
from compose.local.addresses import Addresses
from compose.local.commands import Progress
from compose.local.provision import SANDBOX
from compose.local.rig import LocalRig
from compose.release_before import environment_of, unpack, why_not_here
from compose.system import SERVICE_NAMES, TRACKER

# Replicas of the release before and of this one, side by side on local processes.


class LocalReleases:
    """Runs two replicas of each process, each of the one release or the other."""

    def __init__(self, rig: LocalRig) -> None:
        self._rig = rig
        self._environments: dict[Release, dict[str, str]] = {"this": {}}

    @asynccontextmanager
    async def both(self, names: Sequence[str]) -> AsyncIterator[None]:
        """Inside, two replicas of each run, of the release before; afterwards one, of this release."""
        with tempfile.TemporaryDirectory() as folder:
            files = await asyncio.to_thread(unpack, Path(folder) / "release-before")
            self._environments["before"] = environment_of(files)
            try:
                for replica in REPLICAS:
                    await self.replace(names, replica, "before")
                yield
            finally:
                await self.replace(names, REPLICAS[0], "this")
                for name in names:
                    for replica in REPLICAS[1:]:
                        await asyncio.to_thread(self._rig.stop, name, instance=replica)

    async def replace(self, names: Sequence[str], replica: int, release: Release) -> None:
        """Stop one replica of each in an orderly way, and have it be of that release from now on."""
        for name in names:
            await asyncio.to_thread(self._rig.stop, name, instance=replica)
            await asyncio.to_thread(
                self._rig.start,
                name,
                instance=replica,
                extra_environment=self._environments[release],
                wait_ready=False,
            )
        await asyncio.gather(
            *(asyncio.to_thread(self._rig.wait_ready, name, instance=replica) for name in names)
        )


# Which variable of a process says where a server is.
VARIABLES: Mapping[Server, str] = {
    "postgres": "MURMURATION_DATABASE_URL",
    "rabbitmq": "MURMURATION_BROKER_URL",
}
CONNECTED = (*SERVICE_NAMES, TRACKER)
TARGETS = (*CONNECTED, SANDBOX, POSTGRES, RABBITMQ)


class LocalDrillRig(InThreads[LocalRig]):
    """A `DrillRig` of local processes. Connections are broken by a proxy that the drill puts between."""

    name = "local processes"

    def __init__(self, rig: LocalRig) -> None:
        super().__init__(rig)
        self._releases = LocalReleases(rig)
        self._proxies: dict[tuple[str, str], Proxy] = {}
        self._detours: defaultdict[str, dict[str, str]] = defaultdict(dict)

    @property
    def where(self) -> Addresses:
        return self._rig.addresses

    def why_not(self, deed: Deed) -> str | None:
        if deed.verb == "stop_all":
            return None
        if deed.verb == "replace":
            return why_not_here()
        if needs_nodes(deed):
            return ONE_NODE
        known = TARGETS if deed.server is None else CONNECTED
        return None if deed.target in known else "there is no such process here"

    @asynccontextmanager
    async def ready_for(self, deeds: Iterable[Deed]) -> AsyncIterator[None]:
        """Have those whose connections will be broken connect through a proxy; run what is replaced twice."""
        deeds = list(deeds)
        replaced = [deed.target for deed in deeds if deed.verb == "replace"]
        links = {(deed.target, deed.server) for deed in deeds if deed.server is not None}
        async with AsyncExitStack() as stack:
            for name, server in sorted(links):
                direct = self.where.database_url(name) if server == POSTGRES else self.where.broker_url(name)
                proxy = await stack.enter_async_context(proxy_to(direct))
                self._proxies[name, server] = proxy
                self._detours[name][VARIABLES[server]] = proxy.url(direct)
            detoured = list(self._detours)
            try:
                await self._restart(detoured)
                if replaced:
                    await stack.enter_async_context(self._releases.both(replaced))
                yield
            finally:
                self._proxies.clear()
                self._detours.clear()
                await self._restart(detoured)

    async def _restart(self, names: Collection[str]) -> None:
        """Of all at once: one after the other would take longer than the drill."""
        for name in names:
            await self.stop(name)
        for name in names:
            await self._start(name, wait_ready=False)
        for name in names:
            await asyncio.to_thread(self._rig.wait_ready, name)

    async def start(self, name: str) -> None:
        await self._start(name, wait_ready=True)

    async def _start(self, name: str, *, wait_ready: bool) -> None:
        detour = self._detours.get(name)
        await asyncio.to_thread(self._rig.start, name, extra_environment=detour, wait_ready=wait_ready)

    async def cut_off(self, name: str, server: Server) -> None:
        self._proxies[name, server].cut()

    async def reconnect(self, name: str, server: Server) -> None:
        self._proxies[name, server].restore()

    async def delay(self, name: str, server: Server, seconds: float) -> None:
        self._proxies[name, server].latency_seconds = seconds

    async def broker_control(self, *arguments: str) -> str:
        return await asyncio.to_thread(self._rig.rabbitmqctl, *arguments)

    @property
    def database_admin_url(self) -> str:
        return self.where.postgres_admin_url

    async def replace(self, names: Sequence[str], replica: int, release: Release) -> None:
        await self._releases.replace(names, replica, release)

    async def stop_all(self) -> None:
        await asyncio.to_thread(self._rig.down)

    async def start_all(self) -> None:
        await asyncio.to_thread(self._rig.up)


class LocalSystem:
    """A `System` of local processes, servers included."""

    def __init__(self, state_dir: Path, progress: Progress, environment: Mapping[str, str]) -> None:
        self._rig = LocalRig(
            state_dir / FOLDER, progress=progress, environment=drill_environment(environment)
        )
        self.rig = LocalDrillRig(self._rig)
        self.remains = str(self._rig.state_dir)

    @property
    def left_something(self) -> bool:
        return self._rig.state_dir.exists()

    def up(self) -> None:
        self._rig.up()

    def stop(self) -> None:
        self._rig.down()

    def delete(self) -> None:
        self._rig.destroy()
