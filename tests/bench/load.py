"""Load of three kinds. Open loop: a fixed rate, whatever became of earlier orders. Closed: so many under way
until each has ended. And as fast as they are accepted."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aiohttp import ClientSession

from tests.bench.completions import Completions
from tests.bench.orders import NO_SKU, SKU, STOCK, Ordered, Orders, request_bytes
from tests.bench.poster import NOT_ANSWERED, Answer, Poster

ACCEPTED, BUSY = 202, 503
ANSWERED_WITHIN_SECONDS = 30.0


@dataclass(slots=True)
class Sent:
    """What was sent: when each accepted order was due to be sent, how long its POST took, what failed."""

    due_at: dict[str, float] = field(default_factory=dict)
    post_seconds: list[float] = field(default_factory=list)
    accepted_at: list[float] = field(default_factory=list)
    refused: int = 0
    busy: int = 0
    """Of the refused, those answered with 503 and Retry-After."""
    unanswered: int = 0
    begin: float = field(default_factory=time.monotonic)
    end: float = 0.0
    """When sending ended (monotonic seconds)."""

    @property
    def seconds(self) -> float:
        return self.end - self.begin


class Load:
    """Places orders at one system."""

    def __init__(
        self, order_urls: Sequence[str], completions: Completions, orders: Orders | None = None
    ) -> None:
        self._poster = Poster(order_urls)
        self._completions = completions
        self._orders = orders or Orders()
        self._under_way = 0
        self._answered = asyncio.Event()

    def close(self) -> None:
        """Let go of the connections."""
        self._poster.close()

    async def at_rate(self, per_second: float, seconds: float) -> Sent:
        """So many orders a second. Latency counts from when each was due, not from when a busy client came
        round to sending it (Gil Tene's "coordinated omission")."""
        sent = Sent()
        for number in range(int(per_second * seconds)):
            due_at = sent.begin + number / per_second
            if (wait := due_at - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            self._place(sent, due_at)
        sent.end = time.monotonic()
        await self._all_answered()
        return sent

    async def in_flight(self, count: int, seconds: float) -> Sent:
        """Keep `count` orders under way: another one is sent whenever one ends, or is refused."""
        sent = Sent()
        stop_at = sent.begin + seconds
        mine = len(self._completions.ended_at)
        started = 0

        def top_up() -> None:
            nonlocal started
            now = time.monotonic()
            if now < stop_at:
                gone = len(self._completions.ended_at) - mine + sent.refused
                for _ in range(count - (started - gone)):
                    started += 1
                    self._place(sent, now)

        top_up()
        self._completions.on_end = top_up
        try:
            while (left := stop_at - time.monotonic()) > 0:
                # Refusals end nothing, so somebody has to look.
                await asyncio.sleep(min(left, 0.1))
                top_up()
        finally:
            self._completions.on_end = lambda: None
        sent.end = time.monotonic()
        await self._all_answered()
        return sent

    async def as_accepted(self, at_once: int, seconds: float) -> Sent:
        """Keep so many POSTs under way, whatever becomes of the orders."""
        sent = Sent()
        stop_at = sent.begin + seconds

        def again() -> None:
            now = time.monotonic()
            if now < stop_at:
                self._place(sent, now, again)

        for _ in range(at_once):
            again()
        await asyncio.sleep(seconds)
        sent.end = time.monotonic()
        await self._all_answered()
        return sent

    def _place(self, sent: Sent, due_at: float, then: Callable[[], None] = lambda: None) -> None:
        ordered = self._orders.next()
        self._under_way += 1

        def answered(answer: Answer) -> None:
            self._under_way -= 1
            self._note(sent, ordered, due_at, answer)
            self._answered.set()
            then()

        self._poster.send(ordered.request, answered)

    def _note(self, sent: Sent, ordered: Ordered, due_at: float, answer: Answer) -> None:
        if answer.status != ACCEPTED:
            sent.refused += 1
            sent.busy += answer.status == BUSY and bool(answer.retry_after)
            sent.unanswered += answer.status == NOT_ANSWERED
            return
        now = time.monotonic()
        sent.post_seconds.append(now - due_at)
        sent.accepted_at.append(now)
        sent.due_at[answer.location.rpartition("/")[2]] = due_at
        if ordered.cancelled:
            self._poster.send(request_bytes("POST", f"{answer.location}/cancel"), lambda _: None)

    async def _all_answered(self) -> None:
        """Raises TimeoutError when order_svc does not answer at all."""
        async with asyncio.timeout(ANSWERED_WITHIN_SECONDS):
            while self._under_way:
                self._answered.clear()
                await self._answered.wait()


async def stock_up(inventory_url: str, admin_token: str, skus: Sequence[str] = (SKU,)) -> None:
    """Make sure that the bench never runs out of stock, but of what it orders in vain."""
    headers = {"Authorization": f"Bearer {admin_token}"}
    stocked = dict.fromkeys(skus, STOCK) | {NO_SKU: 0}
    async with ClientSession(headers=headers) as session:
        for sku, units in stocked.items():
            async with session.put(f"{inventory_url}/stock/{sku}", json={"stocked": units}) as response:
                response.raise_for_status()


async def keep_in_flight(order_url: str, completions: Completions, count: int, seconds: float) -> Sent:
    """`Load.in_flight`, with connections of its own."""
    load = Load([order_url], completions)
    try:
        return await load.in_flight(count, seconds)
    finally:
        load.close()
