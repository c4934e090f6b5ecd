"""The loops of one process, in one task group: if one ends that should not, all end, and so does the process.

Nothing here starts a loop again. Whatever supervises the process does that, with an empty memory and the
messages back on their queues.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from events.telemetry.log import log

# A bound on waiting that also holds for libraries that do not heed a cancellation at once.


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


# EX_SOFTWARE of sysexits.h: the program, and not whoever started it, is at fault.
EXIT_CODE = 70

Loop = Callable[[], Coroutine[Any, Any, None]]


class LoopEnded(Exception):
    """A loop that should run for ever ended without an error of its own."""


class Loops:
    """To be opened, given loops, and closed, once. One that ends in between is logged and ends the others."""

    def __init__(self) -> None:
        self.failed = False
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._group_task: asyncio.Task[None] | None = None
        self._closing = False
        self._on_failure: Callable[[], None] = _do_nothing

    @property
    def running(self) -> dict[str, bool]:
        """Of every loop that was started, whether it still runs."""
        return {name: not task.done() for name, task in self._tasks.items()}

    def on_failure(self, react: Callable[[], None]) -> None:
        """Have `react` called, once, as soon as a loop ends that should not."""
        self._on_failure = react

    async def open(self) -> None:
        """Begin the task group."""
        opened = asyncio.Event()
        self._group_task = asyncio.create_task(self._stay_open(opened), name="loops")
        await opened.wait()

    def start(self, loops: Mapping[str, Loop]) -> None:
        """Have these run until they are closed."""
        for name, loop in loops.items():
            self._tasks[name] = self._create_task(name, self._for_ever(name, loop))

    def begin(self, name: str, work: Loop) -> "asyncio.Task[None]":
        """Have something done that ends, such as the start of loops. It may not fail either."""
        return self._create_task(name, self._watched(name, work))

    async def close(self, limit_seconds: float) -> None:
        """End all loops, and wait for that no longer than so."""
        self._closing = True
        if self._group_task is not None:
            self._group_task.cancel()
            await asyncio.wait([self._group_task], timeout=limit_seconds)

    async def _stay_open(self, opened: asyncio.Event) -> None:
        # What ended a loop was logged where it happened, with the loop's name.
        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as self._group:
                opened.set()
                await asyncio.get_running_loop().create_future()

    def _create_task(self, name: str, doing: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        if self._group is None:
            doing.close()
            raise RuntimeError("the loops are not open")
        return self._group.create_task(doing, name=name)

    async def _for_ever(self, name: str, loop: Loop) -> None:
        async def endless() -> None:
            await loop()
            raise LoopEnded("it returned")

        await self._watched(name, endless)

    async def _watched(self, name: str, work: Loop) -> None:
        try:
            await work()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Not by us: a library cancelled what was waited for. The task group would take that for a wish.
            ended = LoopEnded("what it waited for was cancelled")
            self._report(name, ended)
            raise ended from error
        except Exception as error:
            self._report(name, error)
            raise

    def _report(self, name: str, error: Exception) -> None:
        log.error("loop_ended", loop=name, exc_info=error)
        if not self.failed and not self._closing:
            self.failed = True
            self._on_failure()


def exit_within(seconds: float) -> None:
    """End this process by then, in order or not: from a thread, for the event loop may hang."""

    def end() -> None:
        log.error("stopped_without_order", after_seconds=seconds)
        os._exit(EXIT_CODE)

    timer = threading.Timer(seconds, end)
    timer.name, timer.daemon = "last resort", True
    timer.start()


def _do_nothing() -> None:
    """Nobody wants to know."""
