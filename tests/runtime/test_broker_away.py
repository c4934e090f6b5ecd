"""What aiormq cancels when a channel ends counts as a broker that is away; being cancelled does not."""

import asyncio

import pytest

from events.runtime.broker import lost_means_away


async def test_what_was_asked_of_a_lost_channel_is_an_error() -> None:
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(answer.cancel)
    with pytest.raises(ConnectionError), lost_means_away():
        await answer


async def test_who_is_cancelled_ends() -> None:
    async def wait() -> None:
        with lost_means_away():
            await asyncio.sleep(60)

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
