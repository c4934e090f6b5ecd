"""The running system as tests use it: break a part of it, and see that everything lands."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import Any, TypeVar
from uuid import UUID

import aio_pika
import psycopg
from aio_pika.abc import AbstractChannel

from compose.check import examine
from compose.demo.shop import Shop
from compose.local.rig import LocalRig
from compose.rig import Whereabouts
from compose.snapshot import Reader, sources_of
from compose.waiting import seen_in_time
from saga_tracker.consistency.snapshot import Books, books_by_order

SETTLE_SECONDS = 90.0

T = TypeVar("T")


async def until(look: Callable[[], Awaitable[T]], why: str = "", within_seconds: float = SETTLE_SECONDS) -> T:
    """The first truthy answer of `look`; fails when there is none in time."""
    found = await seen_in_time(look, bool, within_seconds)
    assert found, why or f"still {found!r} after {within_seconds} s"
    return found


def new_run() -> str:
    """What makes the SKUs of a scenario unique."""
    return token_hex(3)


class System:
    """A running system and a client of it."""

    def __init__(self, rig: LocalRig, shop: Shop) -> None:
        self.rig = rig
        self.shop = shop

    @property
    def where(self) -> Whereabouts:
        """Where it is, as of now."""
        return self.rig.addresses

    async def new_sku(self, units: int) -> str:
        """A SKU of this test's own, in stock."""
        sku = f"sku-{token_hex(6)}"
        await self.shop.stock(sku, units)
        return sku

    async def settle(
        self, ends: Mapping[UUID, str] | None = None, within_seconds: float = SETTLE_SECONDS
    ) -> Mapping[UUID, Books]:
        """Wait until nothing moves any more; every invariant must hold, and these orders end like this."""
        async with Reader(sources_of(self.rig.addresses)) as reader:
            findings = await examine(reader, within_seconds)
        assert not findings.violations, "\n".join(map(str, findings.violations))
        assert not findings.moving, f"{len(findings.moving)} orders did not come to rest"
        books = books_by_order(findings.snapshot)
        found = {order_id: books[order_id].verdict if order_id in books else None for order_id in ends or ()}
        assert found == dict(ends or {})
        return books

    async def start(self, name: str, **options: Any) -> None:
        """Start it and wait until it is ready."""
        await asyncio.to_thread(self.rig.start, name, **options)

    async def stop(self, name: str, **options: Any) -> None:
        """Stop it in an orderly way."""
        await asyncio.to_thread(self.rig.stop, name, **options)

    async def kill(self, name: str, **options: Any) -> None:
        """End it as kill -9 does."""
        await asyncio.to_thread(self.rig.kill, name, **options)

    async def pause(self, name: str) -> None:
        """Stop it in its tracks: it keeps its connections and answers nothing."""
        await asyncio.to_thread(self.rig.pause, name)

    async def resume(self, name: str) -> None:
        """Let a paused one go on."""
        await asyncio.to_thread(self.rig.resume, name)

    async def running(self, name: str) -> bool:
        """Whether the process lives."""
        return await asyncio.to_thread(self.rig.pid, name) is not None

    async def execute(
        self, service: str, statement: str, values: Sequence[object] | Mapping[str, object] = ()
    ) -> list[Any]:
        """Run SQL in a service's own database; its rows, if it has any."""
        url = self.rig.addresses.database_url(service)
        async with await psycopg.AsyncConnection.connect(url) as connection:
            cursor = await connection.execute(statement.encode(), values)
            return await cursor.fetchall() if cursor.description else []

    @asynccontextmanager
    async def channel_as(self, user: str) -> AsyncIterator[AbstractChannel]:
        """A channel on the broker as one of its users. Whatever is unroutable raises."""
        url = self.rig.addresses.broker_url(user)
        async with (
            await aio_pika.connect(url) as connection,
            connection.channel(on_return_raises=True) as channel,
        ):
            yield channel
