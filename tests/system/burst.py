"""A burst of orders that go every way, from a client that does not give up."""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from uuid import UUID, uuid4

from compose.demo.shop import Item
from compose.drills.load import KINDS, Kind, place_until_accepted
from saga_tracker.consistency.snapshot import Books
from tests.system.stage import System

PLENTY = 10_000
# An outage may make an order late for good just as it ends: then the chain runs back first.
LANDING_SECONDS = 150.0


class Burst:
    """Orders being placed, evenly over some time. `accepted_as` says of each accepted one what it is."""

    def __init__(self, system: System, sku: str, none_left: str, orders: int, seconds: float) -> None:
        self.accepted_as: dict[UUID, Kind] = {}
        self._system = system
        self._sku = sku
        self._none_left = none_left
        self._orders = orders
        self._seconds = seconds
        self._moved = asyncio.Event()

    @property
    def ends(self) -> dict[UUID, str]:
        """How each accepted order ends when none of its steps is late."""
        return {order_id: kind.end for order_id, kind in self.accepted_as.items()}

    async def run(self) -> None:
        """Place all orders; returns when every one is accepted."""
        async with asyncio.TaskGroup() as group:
            for kind in kinds(self._orders):
                group.create_task(self.place(kind))
                await asyncio.sleep(self._seconds / self._orders)

    async def accepted(self, orders: int) -> None:
        """Wait until so many orders were accepted."""
        while len(self.accepted_as) < orders:
            self._moved.clear()
            await self._moved.wait()

    async def landed(self) -> Mapping[UUID, Books]:
        """Wait until every accepted order ended, each in a way its kind may.

        Every invariant must hold, and no service may have given up a fact.
        """
        books = await self._system.settle(within_seconds=LANDING_SECONDS)
        verdicts = {order: books[order].verdict if order in books else None for order in self.accepted_as}
        wrong = [
            f"order {order_id} is {verdicts[order_id]}, not {' or '.join(sorted(kind.ends))}"
            for order_id, kind in self.accepted_as.items()
            if verdicts[order_id] not in kind.ends
        ]
        assert not wrong, "\n".join(wrong)
        given_up = await self._system.execute(
            "tracker",
            "SELECT service, reason, detail FROM dead_letters WHERE order_id = ANY(%s) AND kind <> 'case'",
            [list(self.accepted_as)],
        )
        assert not given_up, "\n".join(map(str, given_up))
        return books

    async def place(self, kind: Kind) -> UUID:
        """Place one order and try again, under the same key, until it is accepted."""
        item = Item(self._sku if kind.in_stock else self._none_left, 1, 1_000)
        order_id = await place_until_accepted(self._system.shop, kind, item, str(uuid4()))
        assert order_id not in self.accepted_as, f"order {order_id} was accepted under two keys"
        self.accepted_as[order_id] = kind
        self._moved.set()
        return order_id


def kinds(count: int) -> Sequence[Kind]:
    """So many orders, all kinds taking turns."""
    return list(islice(cycle(KINDS), count))


async def new_burst(system: System, orders: int, seconds: float) -> Burst:
    """A burst on SKUs of its own, not begun."""
    return Burst(system, await system.new_sku(PLENTY), await system.new_sku(0), orders, seconds)
