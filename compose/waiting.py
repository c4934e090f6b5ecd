"""The one way to wait until something is so: look, until it is or the time is up. Whoever waits says why."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

POLL_SECONDS = 0.05

T = TypeVar("T")


def wait_until_ready(
    what_it_lacks: Callable[[], str | None], limit_seconds: float, *, poll_seconds: float = POLL_SECONDS
) -> str | None:
    """None as soon as it lacks nothing; what it lacks still when the time is up.

    It is asked at least once. What the asking raises ends the wait.
    """
    deadline = time.monotonic() + limit_seconds
    while (lacking := what_it_lacks()) is not None and time.monotonic() < deadline:
        time.sleep(poll_seconds)
    return lacking


async def seen_in_time(
    look: Callable[[], Awaitable[T]],
    is_so: Callable[[T], bool],
    limit_seconds: float,
    *,
    poll_seconds: float = POLL_SECONDS,
) -> T:
    """What was seen when it was so; what was seen last when the time is up. It is looked at least once."""
    deadline = time.monotonic() + limit_seconds
    while True:
        found = await look()
        if is_so(found) or time.monotonic() >= deadline:
            return found
        await asyncio.sleep(poll_seconds)
