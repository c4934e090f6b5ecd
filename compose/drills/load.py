"""A steady load of orders that go every way, from a client that does not give up."""

import asyncio
from dataclasses import dataclass
from random import Random
from uuid import UUID

from compose.demo.shop import Item, Refused, Shop
from compose.local.errors import RigError

RETRY_SECONDS = 0.3
ACCEPTED_WITHIN_SECONDS = 100.0
CLIENTS = 200
SKUS = 8
PLENTY = 1_000_000
AMOUNTS_MINOR = (100, 20_000)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of order, and how it ends when none of its steps is late."""

    end: str
    payment_token: str = "tok_ok"  # noqa: S105 - not a secret
    customer: str = "cust_burst"
    in_stock: bool = True

    @property
    def ends(self) -> frozenset[str]:
        """How it may end whatever breaks meanwhile: one that is late for good is cancelled."""
        return frozenset({self.end, "CANCELLED"})


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


class NotAccepted(Exception):
    """An order was not accepted, although the client tried for long."""


async def place_until_accepted(
    shop: Shop, kind: Kind, item: Item, key: str, *, within_seconds: float = ACCEPTED_WITHIN_SECONDS
) -> UUID:
    """Place an order and try again, under the same key, until it is accepted.

    Raises NotAccepted when it is not in time, and Refused for any answer but "not now".
    """
    try:
        async with asyncio.timeout(within_seconds):
            while True:
                try:
                    return await shop.place(kind.customer, kind.payment_token, item, key=key)
                except (RigError, Refused) as error:
                    if isinstance(error, Refused) and error.status != 503:
                        raise
                await asyncio.sleep(RETRY_SECONDS)
    except TimeoutError as error:
        raise NotAccepted(f"the order {key} was not accepted within {within_seconds:.0f} s") from error


class Load:
    """Orders of all kinds, drawn at random, so many a second. `run_name` makes its SKUs and keys unique."""

    def __init__(self, shop: Shop, random: Random, run_name: str, per_second: float) -> None:
        self.accepted_as: dict[UUID, Kind] = {}
        self._shop = shop
        self._random = random
        self._run_name = run_name
        self._per_second = per_second
        self._in_stock = [f"{run_name}-{number}" for number in range(SKUS)]
        self._none_left = f"{run_name}-none"
        self._keys = 0
        self._stopped = asyncio.Event()
        self._moved = asyncio.Event()
        # Who waits for an answer places no further order, so an outage is no flood.
        self._clients = asyncio.Semaphore(CLIENTS)

    async def stock(self) -> None:
        """Have what will be ordered, and of one SKU nothing."""
        for sku in self._in_stock:
            await self._shop.stock(sku, PLENTY)
        await self._shop.stock(self._none_left, 0)

    async def run(self) -> None:
        """Place orders until `stop`; returns when every one is accepted."""
        clock = asyncio.get_running_loop()
        next_at = clock.time()
        async with asyncio.TaskGroup() as group:
            while not self._stopped.is_set():
                await self._clients.acquire()
                kind = self._random.choice(KINDS)
                sku = self._random.choice(self._in_stock) if kind.in_stock else self._none_left
                item = Item(sku, self._random.randint(1, 3), self._random.randint(*AMOUNTS_MINOR))
                group.create_task(self._place_in_turn(kind, item))
                next_at = max(next_at + 1 / self._per_second, clock.time() - 1)
                await asyncio.sleep(next_at - clock.time())

    def stop(self) -> None:
        """Begin no further order."""
        self._stopped.set()

    async def accepted(self, orders: int) -> None:
        """Wait until so many orders were accepted."""
        while len(self.accepted_as) < orders:
            self._moved.clear()
            await self._moved.wait()

    async def place(self, kind: Kind, item: Item) -> UUID:
        """Place one order now, until it is accepted."""
        self._keys += 1
        order_id = await place_until_accepted(self._shop, kind, item, f"{self._run_name}-{self._keys}")
        self.accepted_as[order_id] = kind
        self._moved.set()
        return order_id

    async def _place_in_turn(self, kind: Kind, item: Item) -> None:
        try:
            await self.place(kind, item)
        finally:
            self._clients.release()
