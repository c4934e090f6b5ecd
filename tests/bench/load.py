"""Load of two kinds. Open loop: a fixed rate, whatever became of earlier orders. Closed: so many at once."""

import asyncio
import time
from dataclasses import dataclass, field
from uuid import uuid4

from aiohttp import ClientError, ClientSession, TCPConnector

from tests.bench.completions import Completions

SKU = "bench"
STOCK = 10_000_000
MAX_CONNECTIONS = 64


@dataclass(slots=True)
class Sent:
    """What was sent: when each accepted order was due to be sent, how long its POST took, what failed."""

    due_at: dict[str, float] = field(default_factory=dict)
    post_seconds: list[float] = field(default_factory=list)
    refused: int = 0


async def stock_up(inventory_url: str, admin_token: str) -> None:
    """Make sure that the bench never runs out of stock."""
    headers = {"Authorization": f"Bearer {admin_token}"}
    async with ClientSession(headers=headers) as session:
        response = await session.put(f"{inventory_url}/stock/{SKU}", json={"stocked": STOCK})
        response.raise_for_status()


async def send_orders(order_url: str, rate_per_second: float, seconds: float) -> Sent:
    """Send `rate_per_second` orders a second. Latency counts from when each was due, not from when a busy
    client came round to sending it (Gil Tene's "coordinated omission")."""
    sent = Sent()
    total = int(rate_per_second * seconds)
    async with ClientSession(connector=TCPConnector(limit=MAX_CONNECTIONS)) as session:
        begin = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(total):
                due_at = begin + number / rate_per_second
                await asyncio.sleep(max(0.0, due_at - time.monotonic()))
                group.create_task(_place(session, order_url, due_at, sent))
    return sent


async def keep_in_flight(order_url: str, completions: Completions, count: int, seconds: float) -> Sent:
    """Keep `count` orders under way: another one is sent whenever one ends, or is refused."""
    sent = Sent()
    end = time.monotonic() + seconds
    before = len(completions.ended_at)
    started = 0
    async with (
        ClientSession(connector=TCPConnector(limit=MAX_CONNECTIONS)) as session,
        asyncio.TaskGroup() as group,
    ):
        while (now := time.monotonic()) < end:
            gone = len(completions.ended_at) - before + sent.refused
            for _ in range(count - (started - gone)):
                group.create_task(_place(session, order_url, now, sent))
                started += 1
            await completions.next_end(timeout_seconds=end - now)
    return sent


async def _place(session: ClientSession, order_url: str, due_at: float, sent: Sent) -> None:
    key = uuid4()
    order = {
        "customer": f"cust_{key.hex}",
        "currency": "EUR",
        "payment_token": "tok_ok",
        "lines": [{"sku": SKU, "quantity": 1, "amount_minor": 1_999}],
    }
    try:
        async with session.post(
            f"{order_url}/orders", json=order, headers={"Idempotency-Key": str(key)}
        ) as response:
            if response.status != 202:
                sent.refused += 1
                return
            order_id = (await response.json())["order_id"]
    except (ClientError, TimeoutError):
        sent.refused += 1
        return
    sent.post_seconds.append(time.monotonic() - due_at)
    sent.due_at[order_id] = due_at
