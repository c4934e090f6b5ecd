"""Waiting for what is bound to happen, with a deadline instead of a sleep."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

POLL_SECONDS = 0.02
# What passes is not kept waiting by it. Machines that many share stand still for half a minute at times.
PATIENCE_SECONDS = 90.0

T = TypeVar("T")


@overload
async def eventually(
    look: Callable[[], Awaitable[T]], *, within_seconds: float = ..., why: str = ...
) -> T: ...


@overload
async def eventually(look: Callable[[], T], *, within_seconds: float = ..., why: str = ...) -> T: ...


async def eventually(
    look: Callable[[], Any], *, within_seconds: float = PATIENCE_SECONDS, why: str = ""
) -> Any:
    """The first truthy answer of `look`. Fails when there is none in time; exceptions count as "not yet"."""
    deadline = time.monotonic() + within_seconds
    while True:
        last: object
        try:
            answer = look()
            seen = await answer if inspect.isawaitable(answer) else answer
            if seen:
                return seen
            last = seen
        except Exception as error:  # noqa: BLE001 - reported when it stays like that
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_seconds} s{why and ': ' + why}; last: {last!r}")
        await asyncio.sleep(POLL_SECONDS)
