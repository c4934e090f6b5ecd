"""Keeps so many of the floor's sagas under way, and tells how many ended, how long and how much each took."""

import asyncio
import json
import os
import statistics
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from uuid import UUID, uuid4

from compose.local.components import POSTGRES, RABBITMQ
from compose.local.rig import LocalRig
from compose.local.state import CHECKOUT
from compose.local.supervisor import ComponentStatus
from events.messaging.topology import TRACKER
from tests.bench.cpu import cpu_ms_each, cpu_seconds
from tests.bench.floor.places import Places, made_places
from tests.bench.floor.saga import ENDINGS
from tests.bench.floor.wiring import ID_BYTES, READY, Assignment

PLACED_BY = "order"
START_TIMEOUT_SECONDS = 60.0
STALL_SECONDS = 30.0
LOAD = "load"


@dataclass(frozen=True, slots=True)
class Floor:
    """What bare clients came to with so many sagas under way.

    `cpu_ms` is for one saga, by process. `tracker_behind_seconds`: how long after the last saga's end the
    tracker had read all.
    """

    in_flight: int
    seconds: float
    sagas: int
    p50_ms: float
    p99_ms: float
    cpu_ms: Mapping[str, float]
    tracker_behind_seconds: float

    @property
    def sagas_per_second(self) -> float:
        return self.sagas / self.seconds

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {ms:.1f}" for name, ms in self.cpu_ms.items())
        return (
            f"{self.in_flight:>6} at once {self.sagas_per_second:>7.1f}/s  p50 {self.p50_ms:.0f} ms"
            f"  p99 {self.p99_ms:.0f} ms  tracker {self.tracker_behind_seconds:.1f} s behind\n"
            f"       CPU ms a saga: {parts}; {sum(self.cpu_ms.values()):.1f} in all"
        )


@dataclass(slots=True)
class Sagas:
    """Those under way, and when each that has ended did (monotonic seconds)."""

    placed_at: dict[UUID, float] = field(default_factory=dict)
    ended_at: dict[UUID, float] = field(default_factory=dict)
    partly_ended: Counter[UUID] = field(default_factory=Counter)
    read_by_tracker: int = 0
    stopping: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def under_way(self) -> int:
        return len(self.placed_at) - len(self.ended_at)

    def end(self, order_id: UUID) -> bool:
        """One of its last facts is published; whether that was the last missing one."""
        self.partly_ended[order_id] += 1
        if self.partly_ended[order_id] < len(ENDINGS):
            return False
        del self.partly_ended[order_id]
        self.ended_at[order_id] = time.monotonic()
        return True


class Clients:
    """The floor's processes, running."""

    def __init__(self, processes: Mapping[str, Process]) -> None:
        self.sagas = Sagas()
        self._processes = processes

    @property
    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._processes.items()}

    def place(self, count: int) -> None:
        """Begin so many sagas."""
        order_ids = [uuid4() for _ in range(count)]
        self.sagas.placed_at.update(dict.fromkeys(order_ids, time.monotonic()))
        stdin = self._processes[PLACED_BY].stdin
        assert stdin is not None
        stdin.write(b"".join(order_id.bytes for order_id in order_ids))

    async def listen(self, name: str) -> None:
        """To what one process reports: for each saga that ends here, begin another. Raises when it ends."""
        while order_ids := await _read_ids(self._processes[name]):
            if name == TRACKER:
                self.sagas.read_by_tracker += len(order_ids)
            elif (ended := sum([self.sagas.end(order_id) for order_id in order_ids])) and (
                not self.sagas.stopping
            ):
                self.place(ended)
            self.sagas.changed.set()
        raise RuntimeError(f"the floor's {name} has ended")

    async def drain(self) -> float:
        """Wait for all that was begun; answers for how long the tracker read on. Raises TimeoutError."""
        self.sagas.stopping = True
        while self.sagas.under_way:
            await self._change()
        ended_at = time.monotonic()
        while self.sagas.read_by_tracker < len(ENDINGS) * len(self.sagas.ended_at):
            await self._change()
        return time.monotonic() - ended_at

    async def _change(self) -> None:
        self.sagas.changed.clear()
        async with asyncio.timeout(STALL_SECONDS):
            await self.sagas.changed.wait()


async def measure_floor(rig: LocalRig, in_flight: int, seconds: float, warm_up_seconds: float = 3.0) -> Floor:
    """The floor on a rig's servers. Raises when one of its processes fails."""
    where = rig.addresses
    pids = {name: pid for name in (POSTGRES, RABBITMQ) if (pid := rig.pid(name)) is not None}
    async with (
        made_places(where.postgres_admin_url, where.rabbitmq_admin_url) as places,
        running_clients(places) as clients,
    ):
        return await drive(clients, pids, in_flight, seconds, warm_up_seconds)


async def drive(
    clients: Clients, server_pids: Mapping[str, int], in_flight: int, seconds: float, warm_up_seconds: float
) -> Floor:
    """Keep so many sagas under way for a while, then let all of them end."""
    everybody = {**server_pids, **clients.pids, LOAD: os.getpid()}
    async with _failing_with(*(clients.listen(name) for name in clients.pids)):
        clients.place(in_flight)
        await asyncio.sleep(warm_up_seconds)
        begin, before = time.monotonic(), _cpu(everybody)
        await asyncio.sleep(seconds)
        end, after = time.monotonic(), _cpu(everybody)
        behind_seconds = await clients.drain()
    sagas = clients.sagas
    ended = {order_id: at for order_id, at in sagas.ended_at.items() if begin <= at < end}
    latencies_ms = [(at - sagas.placed_at[order_id]) * 1_000 for order_id, at in ended.items()]
    percentiles = statistics.quantiles(latencies_ms, n=100) if len(ended) > 1 else [0.0] * 99
    return Floor(
        in_flight=in_flight,
        seconds=end - begin,
        sagas=len(ended),
        p50_ms=percentiles[49],
        p99_ms=percentiles[98],
        cpu_ms=cpu_ms_each(before, after, max(1, len(ended))),
        tracker_behind_seconds=behind_seconds,
    )


@asynccontextmanager
async def running_clients(places: Places) -> AsyncIterator[Clients]:
    """Every process of the floor, ready; ended when the context ends."""
    processes: dict[str, Process] = {}
    try:
        for name in places.databases:
            processes[name] = await _start(
                Assignment(
                    name, places.broker_url, places.exchange, places.queues[name], places.databases[name]
                )
            )
        async with asyncio.timeout(START_TIMEOUT_SECONDS):
            for name, process in processes.items():
                if await _read_ids(process, only=1) != [READY]:
                    raise RuntimeError(f"the floor's {name} did not start")
        yield Clients(processes)
    finally:
        for process in processes.values():
            assert process.stdin is not None
            process.stdin.close()
        for process in processes.values():
            await _end(process)


async def _start(assignment: Assignment) -> Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.floor.process", stdin=PIPE, stdout=PIPE, cwd=CHECKOUT
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(assignment)).encode() + b"\n")
    return process


async def _end(process: Process) -> None:
    try:
        await asyncio.wait_for(process.wait(), STALL_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


async def _read_ids(process: Process, only: int = 4_096) -> list[UUID]:
    """Some order ids; none when the process has ended."""
    assert process.stdout is not None
    ids = await process.stdout.read(only * ID_BYTES)
    ids += await process.stdout.readexactly(-len(ids) % ID_BYTES)
    return [UUID(bytes=ids[at : at + ID_BYTES]) for at in range(0, len(ids), ID_BYTES)]


@asynccontextmanager
async def _failing_with(*jobs: "asyncio._CoroutineLike[None]") -> AsyncIterator[None]:
    """What is done inside fails as soon as one of the jobs does; they are over afterwards."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(job) for job in jobs]
        yield
        for task in tasks:
            task.cancel()


def _cpu(pids: Mapping[str, int]) -> dict[str, float]:
    # This process alone, not what it has started.
    load = time.process_time()
    others = [ComponentStatus(name, "ready", pid, "") for name, pid in pids.items() if name != LOAD]
    return {**cpu_seconds(others), LOAD: load}
