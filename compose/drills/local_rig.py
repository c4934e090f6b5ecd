"""Drills on local processes, and the system of local processes that they are made for.

Between a service and a server there can be a TCP proxy, which cuts, holds up or loses what passes.
"""

import asyncio
import contextlib
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from compose.drills import FOLDER
from compose.drills.rig import (
    ONE_NODE,
    POSTGRES,
    RABBITMQ,
    REPLICAS,
    Deed,
    InThreads,
    Release,
    Server,
    Settings,
    drill_environment,
    needs_nodes,
)
from compose.local.addresses import Addresses
from compose.local.commands import Progress
from compose.local.ports import LOOPBACK
from compose.local.provision import SANDBOX
from compose.local.rig import LocalRig
from compose.release_before import environment_of, unpack, why_not_here
from compose.system import SERVICE_NAMES, TRACKER

CHUNK_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Loss:
    """An answer that gets lost: of the first request with `request` on a connection that sent `after`."""

    request: bytes
    after: bytes
    at_once: bool


class Proxy:
    """Forwards connections to one server."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener: asyncio.Server | None = None
        self._port = 0
        self._links: set[_Link] = set()
        self._refusing = False
        self.accepted = 0
        self.refused = 0
        self.latency_seconds = 0.0
        self.loss: Loss | None = None
        self.open_gate = asyncio.Event()
        self.open_gate.set()
        self.lost = asyncio.Event()

    def url(self, direct: str) -> str:
        """The same URL, through this proxy."""
        parts = urlsplit(direct)
        credentials = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{credentials}@{LOOPBACK}:{self._port}"))

    async def listen(self) -> None:
        """Accept connections, from now on."""
        self._listener = await asyncio.start_server(self._link, LOOPBACK, 0)
        self._port = self._listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """End every connection and listen no more."""
        if self._listener is not None:
            self._listener.close()
        self.drop_connections()

    def cut(self) -> None:
        """End every connection, and every new one at once, until `restore`."""
        self._refusing = True
        self.drop_connections()

    def restore(self) -> None:
        """Connections are welcome again."""
        self._refusing = False

    def drop_connections(self) -> None:
        """End every connection at once; new ones are welcome."""
        for link in list(self._links):
            link.abort()

    def freeze(self) -> None:
        """Nothing passes, and no sign of it: the far side just does not answer."""
        self.open_gate.clear()

    def strand(self) -> None:
        """Nothing ever passes on the connections there are, though nobody ends them; new ones are fine."""
        for link in self._links:
            link.stranded = True

    def thaw(self) -> None:
        """What was held up passes."""
        self.open_gate.set()

    def lose_answer(self, request: bytes, *, after: bytes = b"", at_once: bool = False) -> None:
        """The next such request reaches the server and is carried out, but the connection dies.

        Once that is done; or `at_once`, so that the client is back while the server is still at it.
        """
        self.loss = Loss(request, after, at_once)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            self.refused += 1
            writer.transport.abort()
            return
        self.accepted += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(self, reader, writer, far_reader, far_writer)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)


class _Link:
    """One connection through the proxy."""

    def __init__(
        self,
        proxy: Proxy,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._near = (reader, writer)
        self._far = (far_reader, far_writer)
        self._sent = b""
        self._losing = False
        self.stranded = False

    async def run(self) -> None:
        there = asyncio.create_task(self._forward(self._near[0], self._far[1], outward=True))
        back = asyncio.create_task(self._forward(self._far[0], self._near[1], outward=False))
        with contextlib.suppress(OSError):
            await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
        if self._losing:
            await self._proxy.lost.wait()
        self.abort()
        await asyncio.gather(there, back, return_exceptions=True)

    def abort(self) -> None:
        for _, writer in (self._near, self._far):
            writer.transport.abort()

    async def _forward(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, outward: bool
    ) -> None:
        while chunk := await source.read(CHUNK_BYTES):
            await self._proxy.open_gate.wait()
            if self._proxy.latency_seconds:
                await asyncio.sleep(self._proxy.latency_seconds)
            if self.stranded:
                await asyncio.Event().wait()
            loss = self._loss(chunk) if outward else None
            if self._losing and not outward:
                # The server has answered, so it has done it.
                self._proxy.lost.set()
                return
            sink.write(chunk)
            await sink.drain()
            if loss is not None and loss.at_once:
                self._near[1].transport.abort()

    def _loss(self, chunk: bytes) -> Loss | None:
        """The loss that begins with this chunk, if one does."""
        loss = self._proxy.loss
        if loss is None:
            return None
        self._sent += chunk
        start = self._sent.find(loss.after)
        if start < 0 or loss.request not in self._sent[start:]:
            return None
        self._proxy.loss, self._losing = None, True
        return loss


@contextlib.asynccontextmanager
async def proxy_to(url: str) -> AsyncIterator[Proxy]:
    """A proxy to the server of a URL."""
    parts: Any = urlsplit(url)
    proxy = Proxy(parts.hostname, parts.port)
    await proxy.listen()
    try:
        yield proxy
    finally:
        proxy.thaw()
        await proxy.close()


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

    def why_not_set(self, settings: Settings) -> str | None:
        return next((f"there is no {name} here" for name in settings if name not in CONNECTED), None)

    @asynccontextmanager
    async def ready_for(self, deeds: Iterable[Deed], settings: Settings) -> AsyncIterator[None]:
        """Have those whose connections will be broken connect through a proxy, and those that are set
        otherwise restarted; run what is replaced twice."""
        deeds = list(deeds)
        for name, variables in settings.items():
            self._detours[name].update(variables)
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
