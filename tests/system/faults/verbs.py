"""What can go wrong, as verbs: each breaks one thing of the running system, and mends it again."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import aiohttp
import pytest
from aio_pika.abc import AbstractIncomingMessage

from compose.demo.shop import Refused
from compose.local.errors import RigError
from events.runtime.crash import CrashPoint
from events.service import EXCHANGE
from tests.system.burst import Burst, new_burst
from tests.system.stage import System, until

# Marks what was published a second time, which must not be published a third time.
ECHO = "echo"
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
async def killed(system: System, name: str) -> AsyncIterator[None]:
    """Dead inside, as after kill -9; running again afterwards, in its own environment."""
    await system.kill(name)
    try:
        yield
    finally:
        if await system.running(name):
            await system.kill(name)
        await system.start(name)


@asynccontextmanager
async def stopped(system: System, name: str) -> AsyncIterator[None]:
    """Stopped in an orderly way inside, running again afterwards."""
    await system.stop(name)
    try:
        yield
    finally:
        await system.start(name)


@asynccontextmanager
async def frozen(system: System, name: str) -> AsyncIterator[None]:
    """Stopped in its tracks inside: it keeps its connections and answers nothing."""
    await asyncio.to_thread(system.rig.pause, name)
    try:
        yield
    finally:
        await asyncio.to_thread(system.rig.resume, name)


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


@asynccontextmanager
async def misbehaving(system: System, target: str, **rule: float) -> AsyncIterator[None]:
    """Inside, a party of the outside world has a fault rule of the sandbox; afterwards it is well again."""
    await _faults(system, "PUT", {"target": target, **rule})
    try:
        yield
    finally:
        await _faults(system, "DELETE")


async def _faults(system: System, method: str, rule: dict[str, Any] | None = None) -> None:
    where = system.rig.addresses
    headers = {"Authorization": f"Bearer {where.admin_token}"}
    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        session.request(method, f"{where.http('sandbox')}/faults", json=rule, headers=headers),
    ):
        pass


@asynccontextmanager
async def everything_twice(system: System) -> AsyncIterator[list[str]]:
    """Inside, every fact is published a second time. Yields the ids of those that were."""
    repeated: list[str] = []
    async with system.channel_as("admin") as channel:
        facts = await channel.get_exchange(EXCHANGE)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(facts, "#")

        async def repeat(message: AbstractIncomingMessage) -> None:
            if ECHO not in message.headers:
                await facts.publish(copy_of(message, **{ECHO: 1}), message.routing_key or "")
                repeated.append(message.message_id or "")

        await queue.consume(repeat, no_ack=True)
        yield repeated


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
            await channel.default_exchange.publish(copy_of(message), queue.name)
        await taken[-1].ack(multiple=True)


async def put_in_queue(system: System, service: str, body: bytes, *, message_id: str, kind: str) -> None:
    """Put a message into a service's queue, past the exchange."""
    async with system.channel_as("admin") as channel:
        message = aio_pika.Message(body, message_id=message_id, type=kind)
        await channel.default_exchange.publish(message, f"{service}.facts")


@asynccontextmanager
async def refusing(system: System, service: str, table: str, unless: str) -> AsyncIterator[None]:
    """Inside, a service's database refuses all new rows but those of which a condition holds."""
    await system.execute(service, f"ALTER TABLE {table} ADD CONSTRAINT wrong CHECK ({unless}) NOT VALID")
    try:
        yield
    finally:
        await system.execute(service, f"ALTER TABLE {table} DROP CONSTRAINT wrong")


def copy_of(message: AbstractIncomingMessage, **headers: int) -> aio_pika.Message:
    """The same message to be published anew, with these headers besides."""
    return aio_pika.Message(
        message.body,
        headers={**message.headers, **headers},
        content_type=message.content_type,
        delivery_mode=message.delivery_mode,
        message_id=message.message_id,
        type=message.type,
        app_id=message.app_id,
        correlation_id=message.correlation_id,
        timestamp=message.timestamp,
    )


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
