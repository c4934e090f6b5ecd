"""How far the tracker's view is behind: asked of its HTTP, about an order that has just ended."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from tests.bench.completions import Completions

EVERY_SECONDS = 1.0
POLL_SECONDS = 0.05
GIVE_UP_SECONDS = 60.0
ANSWER_SECONDS = 5.0
OF_THE_TRACKER = (aiohttp.ClientError, TimeoutError, ValueError, KeyError)


@dataclass(slots=True)
class Lag:
    """`seconds`: from an order's last fact until the view shows its end; `behind`: messages left to read."""

    seconds: list[float] = field(default_factory=list)
    behind: list[int] = field(default_factory=list)


@asynccontextmanager
async def watching_lag(tracker_url: str, completions: Completions) -> AsyncIterator[Lag]:
    """Inside, the tracker is asked about once a second."""
    lag = Lag()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS)) as session:
        task = asyncio.create_task(_watch(session, tracker_url, completions, lag), name="watch lag")
        try:
            yield lag
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _watch(session: aiohttp.ClientSession, url: str, completions: Completions, lag: Lag) -> None:
    asked_before = ""
    while True:
        await asyncio.sleep(EVERY_SECONDS)
        order_id = next(reversed(completions.ended_at), "")
        with contextlib.suppress(*OF_THE_TRACKER):
            async with session.get(f"{url}/readyz") as response:
                lag.behind.append((await response.json())["lag_messages"])
            if order_id != asked_before:
                asked_before = order_id
                await _wait_until_seen(session, f"{url}/sagas/{order_id}", completions.ended_at[order_id])
                lag.seconds.append(time.monotonic() - completions.ended_at[order_id])


async def _wait_until_seen(session: aiohttp.ClientSession, url: str, ended_at: float) -> None:
    """Raises TimeoutError when it is not seen for very long."""
    while time.monotonic() < ended_at + GIVE_UP_SECONDS:
        async with session.get(url) as response:
            saga = await response.json()
        if response.status == 200 and saga["ended_at"] and not saga["waits"]:
            return
        await asyncio.sleep(POLL_SECONDS)
    raise TimeoutError
