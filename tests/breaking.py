"""Runs a process of this system with one of its methods broken: `python -m tests.breaking PACKAGE`.

What breaks is in BREAK: `module:Class.method=how`, several of them apart by spaces. From when the file
BREAK_WHEN is there, an endless method, `raises` KeyError or `returns`, whatever it is waiting for, and any
other method raises KeyError when it is called. A method that `hangs` does so always, the whole event loop
if it `blocks`.
"""

import asyncio
import inspect
import os
import runpy
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

When = Callable[[], bool]

LOOK_SECONDS = 0.02
FOR_EVER_SECONDS = 3_600


def break_method(where: str, how: str, when: When) -> None:
    module, _, path = where.partition(":")
    kind, _, method = path.partition(".")
    owner = getattr(import_module(module), kind)
    setattr(owner, method, _broken(getattr(owner, method), how, when))


def _broken(original: Callable[..., Any], how: str, when: When) -> Callable[..., Any]:
    async def endless(*arguments: Any) -> None:
        running = asyncio.ensure_future(original(*arguments))
        try:
            while not when():
                await asyncio.wait([running], timeout=LOOK_SECONDS)
        finally:
            running.cancel()
        if how == "raises":
            raise KeyError("broken on purpose")

    async def hanging(*_: Any) -> None:
        if how == "blocks":
            time.sleep(FOR_EVER_SECONDS)  # noqa: ASYNC251
        await asyncio.sleep(FOR_EVER_SECONDS)

    async def broken_when_awaited(*arguments: Any, **named: Any) -> Any:
        if when():
            raise KeyError("broken on purpose")
        return await original(*arguments, **named)

    def broken(*arguments: Any, **named: Any) -> Any:
        if when():
            raise KeyError("broken on purpose")
        return original(*arguments, **named)

    if how in ("hangs", "blocks"):
        return hanging
    if how in ("raises", "returns"):
        return endless
    return broken_when_awaited if inspect.iscoroutinefunction(original) else broken


if __name__ == "__main__":
    for what in os.environ["BREAK"].split():
        where, _, how = what.partition("=")
        break_method(where, how, Path(os.environ["BREAK_WHEN"]).exists)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
