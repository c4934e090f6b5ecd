"""A burst of orders that go every way, from a client that does not give up."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from uuid import UUID, uuid4

from compose.demo.shop import Item, Refused
from compose.local.errors import RigError
from tests.system.stage import System

RETRY_SECONDS = 0.2
RETRIES = 300
PLENTY = 10_000


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of order, and how it must end whatever breaks meanwhile."""

    end: str
    payment_token: str = "tok_ok"
    customer: str = "cust_burst"
    in_stock: bool = True


KINDS = (
    Kind("COMPLETED"),
    Kind("CANCELLED", "tok_declined"),
    Kind("COMPLETED"),
    Kind("CANCELLED", customer="cust_refused"),
    Kind("COMPLETED", "tok_lost"),
    Kind("COMPLETED", "tok_flaky"),
    Kind("CANCELLED", in_stock=False),
    Kind("COMPLETED", customer="cust_carrier_lost"),
    Kind("CANCELLED", "tok_refund_refused", "cust_refused"),
    Kind("COMPLETED", customer="cust_mail_bounces"),
    Kind("NEEDS_MANUAL", "tok_undo_refused", "cust_refused"),
    Kind("COMPLETED", "tok_slow"),
)


class Burst:
    """Orders being placed, evenly over some time. `ends` says of each accepted one how it must end."""

    def __init__(self, system: System, sku: str, none_left: str, orders: int, seconds: float) -> None:
        self.ends: dict[UUID, str] = {}
        self._system = system
        self._sku = sku
        self._none_left = none_left
        self._orders = orders
        self._seconds = seconds
        self._moved = asyncio.Event()

    async def run(self) -> None:
        """Place all orders; returns when every one is accepted."""
        async with asyncio.TaskGroup() as group:
            for kind in kinds(self._orders):
                group.create_task(self._place(kind))
                await asyncio.sleep(self._seconds / self._orders)

    async def accepted(self, orders: int) -> None:
        """Wait until so many orders were accepted."""
        while len(self.ends) < orders:
            self._moved.clear()
            await self._moved.wait()

    async def _place(self, kind: Kind) -> None:
        key = str(uuid4())
        item = Item(self._sku if kind.in_stock else self._none_left, 1, 1_000)
        for _ in range(RETRIES):
            try:
                order_id = await self._system.shop.place(kind.customer, kind.payment_token, item, key=key)
            except (RigError, Refused) as error:
                if isinstance(error, Refused) and error.status != 503:
                    raise
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self.ends[order_id] = kind.end
            self._moved.set()
            return
        raise TimeoutError("an order was not accepted in time")


def kinds(count: int) -> Sequence[Kind]:
    """So many orders, all kinds taking turns."""
    return list(islice(cycle(KINDS), count))


async def new_burst(system: System, orders: int, seconds: float) -> Burst:
    """A burst on SKUs of its own, not begun."""
    return Burst(system, await system.new_sku(PLENTY), await system.new_sku(0), orders, seconds)
