"""A steady load of orders that go every way, from a client that does not give up."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from uuid import UUID

from compose.demo.shop import Item, Refused, Shop
from compose.local.commands import RigError

RETRY_SECONDS = 0.3
# Who is not answered at all, asks for so long. Who gets a "not now" goes elsewhere sooner.
ACCEPTED_WITHIN_SECONDS = 100.0
GOES_ELSEWHERE_SECONDS = 30.0
# However long the service asks for.
LONGEST_PAUSE_SECONDS = 5.0
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
    contested: bool = False
    """More of this kind are placed than there is stock for: who gets none is cancelled."""
    undo_may_fail: bool = False
    """Whether what undoes it may fail for good, and is for a person then."""

    @property
    def should_complete(self) -> bool:
        """Whether it has every reason to: there is stock, the card is good, a carrier serves the customer."""
        return self.end == "COMPLETED" and self.in_stock and not self.contested

    @property
    def ends(self) -> frozenset[str]:
        """How it may end whatever breaks meanwhile: one that is late for good is cancelled."""
        return frozenset({self.end, "CANCELLED", *(["NEEDS_MANUAL"] if self.undo_may_fail else [])})


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


class TurnedAway(NotAccepted):
    """It was refused again and again: the service answered clearly that it takes no orders now."""


async def place_until_accepted(
    shop: Shop,
    kind: Kind,
    item: Item,
    key: str,
    *,
    within_seconds: float = ACCEPTED_WITHIN_SECONDS,
    goes_elsewhere_seconds: float = ACCEPTED_WITHIN_SECONDS,
    when_refused: Callable[[], None] = lambda: None,
) -> UUID:
    """Place an order and try again, under the same key, until it is accepted.

    Raises NotAccepted when it is not in time; that is TurnedAway once it is refused (503) after
    `goes_elsewhere_seconds`. Raises Refused for any answer but "not now".
    """
    clock = asyncio.get_running_loop()
    began = clock.time()
    try:
        async with asyncio.timeout(within_seconds):
            while True:
                pause_seconds = RETRY_SECONDS
                try:
                    return await shop.place(kind.customer, kind.payment_token, item, key=key)
                except RigError:
                    pass
                except Refused as refused:
                    if refused.status != 503:
                        raise
                    when_refused()
                    if clock.time() - began > goes_elsewhere_seconds:
                        raise TurnedAway(f"the order {key} was refused: {refused}") from refused
                    asked_for = refused.retry_after_seconds or 0.0
                    pause_seconds = min(max(asked_for, RETRY_SECONDS), LONGEST_PAUSE_SECONDS)
                await asyncio.sleep(pause_seconds)
    except TimeoutError as error:
        raise NotAccepted(f"the order {key} was not accepted within {within_seconds:.0f} s") from error


class Load:
    """Orders of all kinds, drawn at random, so many a second. `run_name` makes its SKUs and keys unique.

    `accepted_as` says of each accepted order what it is, `withdrawn` which of them the customer cancelled;
    `refused` are the keys that were answered 503, `turned_away` those of them that gave up.
    """

    def __init__(
        self,
        shop: Shop,
        random: Random,
        run_name: str,
        per_second: float,
        *,
        kinds: Sequence[Kind] = KINDS,
        goes_elsewhere_seconds: float = GOES_ELSEWHERE_SECONDS,
    ) -> None:
        self.accepted_as: dict[UUID, Kind] = {}
        self.withdrawn: set[UUID] = set()
        self.refused: set[str] = set()
        self.turned_away: set[str] = set()
        self._kinds = kinds
        self._goes_elsewhere_seconds = goes_elsewhere_seconds
        self._shop = shop
        self._random = random
        self._run_name = run_name
        self.per_second = per_second
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
        """Place orders until `stop`; returns when every one is accepted, or turned away for good."""
        clock = asyncio.get_running_loop()
        next_at = clock.time()
        async with asyncio.TaskGroup() as group:
            while not self._stopped.is_set():
                await self._clients.acquire()
                kind = self._random.choice(self._kinds)
                sku = self._random.choice(self._in_stock) if kind.in_stock else self._none_left
                item = Item(sku, self._random.randint(1, 3), self._random.randint(*AMOUNTS_MINOR))
                group.create_task(self._place_in_turn(kind, item))
                next_at = max(next_at + 1 / self.per_second, clock.time() - 1)
                await asyncio.sleep(next_at - clock.time())

    def stop(self) -> None:
        """Begin no further order."""
        self._stopped.set()

    async def accepted(self, orders: int) -> None:
        """Wait until so many orders were accepted."""
        while len(self.accepted_as) < orders:
            self._moved.clear()
            await self._moved.wait()

    async def place(self, kind: Kind, item: Item) -> UUID | None:
        """Place one order now, until it is accepted; None when it is turned away."""
        self._keys += 1
        key = f"{self._run_name}-{self._keys}"
        try:
            order_id = await place_until_accepted(
                self._shop,
                kind,
                item,
                key,
                goes_elsewhere_seconds=self._goes_elsewhere_seconds,
                when_refused=lambda: self.refused.add(key),
            )
        except TurnedAway:
            self.turned_away.add(key)
            return None
        self.accepted_as[order_id] = kind
        self._moved.set()
        return order_id

    async def cancel(self, order_id: UUID) -> bool:
        """Have the customer cancel an order; answers whether it was in time. Raises what the shop does."""
        try:
            await self._shop.cancel(order_id)
        except Refused as refused:
            if refused.status != 409:
                raise
            return False
        self.withdrawn.add(order_id)
        return True

    async def _place_in_turn(self, kind: Kind, item: Item) -> None:
        try:
            await self.place(kind, item)
        finally:
            self._clients.release()
