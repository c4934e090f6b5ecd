"""What a drill is made of, what it may lay hands on and whom it befalls; and what can go wrong, as verbs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, LiteralString
from uuid import UUID

import aio_pika
import aiohttp
import psycopg
from aio_pika.abc import AbstractIncomingMessage

from compose.demo.shop import Shop
from compose.drills.load import KINDS, Kind, Load
from compose.drills.outcome import USUAL, Target, Timeline
from compose.drills.rig import Deed, DrillRig, Machinery, Server, Settings
from compose.local.provision import ADMIN_USER, SANDBOX
from compose.rig import Whereabouts
from compose.system import SERVICE_NAMES
from events.messaging.copies import copy_of
from events.service import EXCHANGE
from saga_tracker.consistency.snapshot import Books

# Which services a fault befalls, one after the other: one that the seed draws, and then some always.


@dataclass(frozen=True, slots=True)
class Victims:
    """`always` says of each for how many seconds, of the drawn one `drawn_seconds` does; 0: none is drawn."""

    always: Mapping[str, float] = field(default_factory=dict)
    drawn_seconds: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """Everybody whom it may befall."""
        return SERVICE_NAMES if self.drawn_seconds else tuple(self.always)

    @property
    def longest_seconds(self) -> float:
        """How long it lasts for whom it lasts longest."""
        return max(self.drawn_seconds, *self.always.values())

    def in_turn(self, random: Random) -> Iterator[tuple[str, float]]:
        """Who, and for how long."""
        if self.drawn_seconds:
            others = [name for name in SERVICE_NAMES if name not in self.always]
            yield random.choice(others), self.drawn_seconds
        yield from self.always.items()


# What a drill finds wrong, over and above what is asked after every drill.
Problems = list[str]
# Before a fault: how little is under way once the system has caught up, and how long that may take.
CAUGHT_UP_SECONDS_OF_LOAD = 3.0
CATCHING_UP_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Stage:
    """The running system under load. `run_name` is unique to this drill and seed: for SKUs and keys."""

    rig: DrillRig
    shop: Shop
    load: Load
    random: Random
    timeline: Timeline
    run_name: str
    notes: list[str] = field(default_factory=list)
    """What is worth a line of the report: what was counted, for example."""

    @contextmanager
    def broken(self, label: str) -> Iterator[None]:
        """Inside, something is broken: shown as a band of the timeline."""
        with self.timeline.fault(label):
            yield

    async def caught_up(self) -> None:
        """Before a fault: wait until little is under way, so that each meets a system at work as usual.

        Not for ever: where the machine is too slow for the load, the next one comes all the same.
        """
        little = CAUGHT_UP_SECONDS_OF_LOAD * self.load.per_second
        with suppress(TimeoutError):
            async with asyncio.timeout(CATCHING_UP_SECONDS):
                await self.timeline.in_flight_at_most(little)


async def nothing_more(_stage: Stage, _books: Mapping[UUID, Books]) -> Problems:
    """For a drill after which the usual questions are enough."""
    return []


async def at_once(_stage: Stage) -> None:
    """For a drill after which nothing comes late."""


@dataclass(frozen=True, slots=True)
class Drill:
    """One way to break the system."""

    name: str
    title: str
    strike: Callable[[Stage], Awaitable[None]]
    """Breaks and heals, while orders come in; whatever happens to it, it leaves nothing broken."""
    deeds: tuple[Deed, ...] = field(default=())
    """What the rig must be able to do for it."""
    verify: Callable[[Stage, Mapping[UUID, Books]], Awaitable[Problems]] = nothing_more
    """What is asked over and above, once all is at rest."""
    orders_per_second: float | None = None
    """The load, where it is not what the whole run has."""
    kinds: tuple[Kind, ...] = KINDS
    """What is ordered, drawn at random."""
    settings: Settings = field(default_factory=dict, hash=False)
    """How some processes are set meanwhile, where that is not the default."""
    rested: Callable[[Stage], Awaitable[None]] = at_once
    """Waits, once every order has ended, for what may come later still."""
    target: Target = USUAL
    """What it may cost."""
    limit_seconds: float = 150.0
    """How long its strike may take."""


# Marks what was published a second time, which must not be published a third time.
ECHO = "echo"
# What its configuration says stays known to a broker that was set otherwise by command.
AS_CONFIGURED = (
    "{ok, Limit} = application:get_env(rabbit, vm_memory_high_watermark), "
    "vm_memory_monitor:set_vm_memory_high_watermark(Limit)."
)


@asynccontextmanager
async def killed(rig: Machinery, name: str) -> AsyncIterator[None]:
    """Dead inside, as after kill -9; running again afterwards, in its own environment."""
    await rig.kill(name)
    try:
        yield
    finally:
        if await rig.running(name):
            await rig.kill(name)
        await rig.start(name)


@asynccontextmanager
async def all_killed(rig: Machinery, names: Iterable[str]) -> AsyncIterator[None]:
    """All of these dead inside, at once; running again afterwards."""
    try:
        await asyncio.gather(*map(rig.kill, names))
        yield
    finally:
        await asyncio.gather(*map(rig.start, names))


@asynccontextmanager
async def stopped(rig: Machinery, name: str) -> AsyncIterator[None]:
    """Stopped in an orderly way inside, running again afterwards."""
    await rig.stop(name)
    try:
        yield
    finally:
        await rig.start(name)


@asynccontextmanager
async def paused(rig: Machinery, name: str) -> AsyncIterator[None]:
    """Frozen inside: it keeps its connections and answers nothing. Afterwards it goes on unknowing."""
    await rig.pause(name)
    try:
        yield
    finally:
        await rig.resume(name)


@asynccontextmanager
async def cut_off(rig: DrillRig, name: str, server: Server) -> AsyncIterator[None]:
    """Inside, a process has no connection to a server, and gets none."""
    await rig.cut_off(name, server)
    try:
        yield
    finally:
        await rig.reconnect(name, server)


@asynccontextmanager
async def isolated(rig: DrillRig, name: str) -> AsyncIterator[None]:
    """Inside, a node of the broker is apart from all others, as by a cable pulled; in sync afterwards."""
    await rig.isolate(name)
    try:
        yield
    finally:
        await rig.rejoin(name)


@asynccontextmanager
async def delayed(rig: DrillRig, name: str, server: Server, seconds: float) -> AsyncIterator[None]:
    """Inside, everything between a process and a server takes so much longer, each way."""
    await rig.delay(name, server, seconds)
    try:
        yield
    finally:
        await rig.delay(name, server, 0)


@asynccontextmanager
async def alarmed(rig: DrillRig) -> AsyncIterator[None]:
    """Inside, the broker believes that its memory is full: it takes nothing from whoever publishes."""
    await rig.broker_control("set_vm_memory_high_watermark", "absolute", "1")
    try:
        yield
    finally:
        await rig.broker_control("eval", AS_CONFIGURED)


@asynccontextmanager
async def read_only(rig: DrillRig) -> AsyncIterator[None]:
    """Inside, PostgreSQL takes no change of anything, as one that was demoted or ran out of room."""
    await _administer(rig, "ALTER SYSTEM SET default_transaction_read_only = on")
    try:
        yield
    finally:
        await _administer(rig, "ALTER SYSTEM RESET default_transaction_read_only")


async def _administer(rig: DrillRig, statement: LiteralString) -> None:
    async with await psycopg.AsyncConnection.connect(rig.database_admin_url, autocommit=True) as connection:
        await connection.execute(statement)
        await connection.execute("SELECT pg_reload_conf()")


@asynccontextmanager
async def all_stopped(rig: DrillRig) -> AsyncIterator[None]:
    """Inside, nothing runs at all."""
    await rig.stop_all()
    try:
        yield
    finally:
        await rig.start_all()


@asynccontextmanager
async def misbehaving(where: Whereabouts, target: str, **rule: float) -> AsyncIterator[None]:
    """Inside, a party of the outside world has a fault rule of the sandbox; afterwards it is well again."""
    await _faults(where, "PUT", {"target": target, **rule})
    try:
        yield
    finally:
        await _faults(where, "DELETE")


async def _faults(where: Whereabouts, method: str, rule: dict[str, Any] | None = None) -> None:
    headers = {"Authorization": f"Bearer {where.admin_token}"}
    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        session.request(method, f"{where.http(SANDBOX)}/faults", json=rule, headers=headers),
    ):
        pass


@asynccontextmanager
async def everything_twice(where: Whereabouts) -> AsyncIterator[list[str]]:
    """Inside, every fact is published a second time. Yields the ids of those that were."""
    repeated: list[str] = []
    async with (
        await aio_pika.connect(where.broker_url(ADMIN_USER)) as connection,
        connection.channel(on_return_raises=True) as channel,
    ):
        facts = await channel.get_exchange(EXCHANGE)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(facts, "#")

        async def repeat(message: AbstractIncomingMessage) -> None:
            if ECHO not in message.headers:
                await facts.publish(copy_of(message, {ECHO: 1}), message.routing_key or "")
                repeated.append(message.message_id or "")

        await queue.consume(repeat, no_ack=True)
        yield repeated


async def put_in_queue(where: Whereabouts, service: str, body: bytes, *, message_id: str, kind: str) -> None:
    """Put a message into a service's queue, past the exchange."""
    async with (
        await aio_pika.connect(where.broker_url(ADMIN_USER)) as connection,
        connection.channel(on_return_raises=True) as channel,
    ):
        message = aio_pika.Message(body, message_id=message_id, type=kind)
        await channel.default_exchange.publish(message, f"{service}.facts")
