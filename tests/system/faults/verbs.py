"""What can go wrong, as verbs, beside those of compose/drills/stage.py."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest
from aio_pika.abc import AbstractIncomingMessage

from compose.demo.shop import Refused
from compose.local.commands import RigError
from events.messaging.copies import copy_of
from events.runtime.crash import CrashPoint
from events.service import EXCHANGE
from tests.system.burst import Burst, new_burst
from tests.system.stage import System, until

DEATH_SECONDS = 30.0


@asynccontextmanager
async def under_load(system: System, orders: int, seconds: float) -> AsyncIterator[Burst]:
    """Inside, orders are being placed, a third of them already; afterwards all are accepted."""
    burst = await new_burst(system, orders, seconds)
    async with asyncio.TaskGroup() as group:
        group.create_task(burst.run())
        await burst.accepted(orders // 3)
        yield burst


@asynccontextmanager
async def restarted(system: System, name: str, environment: Mapping[str, str]) -> AsyncIterator[None]:
    """Told otherwise inside, and as before afterwards."""
    await system.stop(name)
    try:
        await system.start(name, extra_environment=environment)
        yield
    finally:
        await system.stop(name)
        await system.start(name)


async def die_at(system: System, name: str, point: CrashPoint) -> None:
    """Start a process that is not running, and wait until it has killed itself at a crash point.

    Something to do must be on its way.
    """
    await system.start(name, extra_environment={"MURMURATION_CRASH_AT": point}, wait_ready=False)

    async def died() -> bool:
        return not await system.running(name)

    await until(died, f"{name} never came to {point}", DEATH_SECONDS)
    with pytest.raises(RigError, match="was killed by SIGKILL"):
        await asyncio.to_thread(system.rig.wait_ready, name)


async def queued(system: System, service: str, facts: int) -> None:
    """Wait until so many facts are in a service's queue, which nobody may be consuming."""
    async with system.channel_as("admin") as channel:
        queue = await channel.declare_queue(f"{service}.facts", passive=True)

        async def enough() -> bool:
            return ((await queue.declare()).message_count or 0) >= facts

        await until(enough, f"fewer than {facts} facts for {service}")


async def reverse(system: System, service: str) -> None:
    """Turn a service's queue around, which nobody may be consuming."""
    async with system.channel_as("admin") as channel:
        queue = await channel.declare_queue(f"{service}.facts", passive=True)
        taken = []
        while (message := await queue.get(fail=False)) is not None:
            taken.append(message)
        for message in reversed(taken):
            await channel.default_exchange.publish(copy_of(message, {}), queue.name)
        await taken[-1].ack(multiple=True)


@asynccontextmanager
async def overheard(system: System) -> AsyncIterator[list[AbstractIncomingMessage]]:
    """What is published inside, as it comes."""
    received: list[AbstractIncomingMessage] = []

    async def note(message: AbstractIncomingMessage) -> None:
        received.append(message)

    async with system.channel_as("admin") as channel:
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(EXCHANGE, "#")
        await queue.consume(note, no_ack=True)
        yield received


async def publish_again(system: System, facts: Sequence[AbstractIncomingMessage]) -> None:
    """Publish these once more, as they were, each to everybody who receives it."""
    async with system.channel_as("admin") as channel:
        exchange = await channel.get_exchange(EXCHANGE, ensure=False)
        for fact in facts:
            await exchange.publish(copy_of(fact, {}), fact.routing_key or "")


@asynccontextmanager
async def refusing(system: System, service: str, table: str, unless: str) -> AsyncIterator[None]:
    """Inside, a service's database refuses all new rows but those of which a condition holds."""
    await system.execute(service, f"ALTER TABLE {table} ADD CONSTRAINT wrong CHECK ({unless}) NOT VALID")
    try:
        yield
    finally:
        await system.execute(service, f"ALTER TABLE {table} DROP CONSTRAINT wrong")


async def is_ready(system: System, name: str) -> bool:
    """Whether a process, which must be alive, says that it can do its work."""
    assert (await system.shop.ask(name, "GET", "/healthz"))["status"] == "alive"
    try:
        answer = await system.shop.ask(name, "GET", "/readyz")
    except Refused as refused:
        if refused.status == 503:
            return False
        raise
    return bool(answer["status"] == "ready")


async def all_say(system: System, names: tuple[str, ...], *, ready: bool) -> None:
    """Wait until each of these processes says that it can, or cannot, do its work."""

    async def says(name: str) -> bool:
        return await is_ready(system, name) is ready

    async def wait_for(name: str) -> None:
        await until(lambda: says(name), f"{name} does not say that it is {'' if ready else 'not '}ready")

    await asyncio.gather(*map(wait_for, names))
