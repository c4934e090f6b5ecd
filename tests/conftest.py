"""What any test may ask for."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.servers import Servers, running_servers

CANCEL_AGAIN_AFTER_SECONDS = 0.2
CANCEL_FOR_SECONDS = 10.0


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """A RabbitMQ and a PostgreSQL for this session; see `new_vhost` and `new_database`."""
    with running_servers() as servers:
        yield servers


@pytest_asyncio.fixture(scope="session", loop_scope="session", autouse=True)
async def no_task_outlives_the_session() -> AsyncIterator[None]:
    """Cancel what is left at the end, more than once where it takes that.

    A connection of aio-pika that is just reconnecting takes a cancellation for a failed attempt and goes on.
    The loop cancels once when it closes, and would wait for such a task for ever.
    """
    yield
    loop = asyncio.get_running_loop()
    deadline = loop.time() + CANCEL_FOR_SECONDS
    while (left := asyncio.all_tasks() - {asyncio.current_task()}) and loop.time() < deadline:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=CANCEL_AGAIN_AFTER_SECONDS)
    assert not left, f"these tasks do not end: {left}"
