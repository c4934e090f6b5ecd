"""A bound on waiting that also holds for libraries that do not heed a cancellation at once."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def promptly(doing: Awaitable[T], limit_seconds: float) -> T:
    """The outcome of `doing`, or TimeoutError, or a cancellation, and any of these in time.

    aiormq's requests do not always heed a cancellation, and psycopg takes its time to cancel a query that
    nobody answers, so neither `asyncio.timeout` nor `wait_for` will do. Raises ConnectionError when `doing`
    was cancelled from within.
    """
    task = asyncio.ensure_future(doing)
    task.add_done_callback(lambda task: task.cancelled() or task.exception())
    try:
        await asyncio.wait((task,), timeout=limit_seconds)
    finally:
        if not task.done():
            task.cancel()
    if not task.done():
        raise TimeoutError(f"no answer for {limit_seconds} s")
    if task.cancelled():
        # Not by us: aiormq cancels what is asked of a channel that ends. Who waits must not end with it.
        raise ConnectionError("closed before the answer came")
    return task.result()
