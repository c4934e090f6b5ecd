"""What the tests of the runtime share."""

from collections.abc import AsyncIterator, Iterator, MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.runtime.stage import Stage, new_stage
from tests.servers import Servers


@pytest.fixture
async def stage(servers: Servers) -> AsyncIterator[Stage]:
    """A toy service with a database and a vhost of its own."""
    async with new_stage(servers) as stage:
        yield stage


@pytest.fixture
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    """What this process logs during the test."""
    with capture_logs() as lines:
        yield lines
