"""Waiting ends in time, and does not end whoever waits."""

import asyncio

import pytest

from events.runtime.loops import promptly


async def test_what_is_cancelled_from_within_does_not_cancel_who_waits() -> None:
    request: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(request.cancel)
    with pytest.raises(ConnectionError):
        await promptly(request, 5)


async def test_who_is_cancelled_while_waiting_is() -> None:
    waiting = asyncio.create_task(promptly(asyncio.sleep(60), 60))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_an_answer_that_does_not_come_is_a_timeout() -> None:
    with pytest.raises(TimeoutError):
        await promptly(asyncio.sleep(60), 0.01)
