"""What the tests of the tracker share."""

from collections.abc import AsyncIterator, Iterator, MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.servers import Servers
from tests.tracker.watch import Watch, new_watch


@pytest.fixture
async def watch(servers: Servers) -> AsyncIterator[Watch]:
    """A stream, an empty view, and no tracker yet."""
    async with new_watch(servers) as watch:
        yield watch


@pytest.fixture
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    """What this process logs during the test."""
    with capture_logs() as lines:
        yield lines
