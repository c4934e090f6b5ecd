"""How far the tracker's view is behind: asked of its HTTP, about an order that has just ended."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.bench.completions import Completions
from tests.bench.poster import Poster

EVERY_SECONDS = 1.0
POLL_SECONDS = 0.05
GIVE_UP_SECONDS = 60.0


@dataclass(slots=True)
class Lag:
    """`seconds`: from an order's last fact until the view shows its end; `behind`: messages left to read."""

    seconds: list[float] = field(default_factory=list)
    behind: list[int] = field(default_factory=list)


@asynccontextmanager
async def watching_lag(tracker_url: str, completions: Completions) -> AsyncIterator[Lag]:
    """Inside, the tracker is asked about once a second."""
    lag = Lag()
    poster = Poster([tracker_url], connections=1)
    task = asyncio.create_task(_watch(poster, completions, lag), name="watch lag")
    try:
        yield lag
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        poster.close()


async def _watch(poster: Poster, completions: Completions, lag: Lag) -> None:
    asked_before = ""
    while True:
        await asyncio.sleep(EVERY_SECONDS)
        ready = await poster.ask("/readyz")
        if ready.status == 200:
            lag.behind.append(json.loads(ready.body)["lag_messages"])
        order_id = next(reversed(completions.ended_at), "")
        if order_id != asked_before:
            asked_before = order_id
            ended_at = completions.ended_at[order_id]
            if await _is_seen(poster, order_id, ended_at + GIVE_UP_SECONDS):
                lag.seconds.append(time.monotonic() - ended_at)


async def _is_seen(poster: Poster, order_id: str, deadline: float) -> bool:
    """Wait until the view shows that it has ended, and that nobody owes anything for it; False: too late."""
    while time.monotonic() < deadline:
        answer = await poster.ask(f"/sagas/{order_id}")
        if answer.status == 200:
            saga = json.loads(answer.body)
            if saga["ended_at"] and not saga["waits"]:
                return True
        await asyncio.sleep(POLL_SECONDS)
    return False
