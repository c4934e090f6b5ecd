"""What the tests of the pages share: one tracker with sagas in every state, and one browser."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser

from tests.board.stage import Stage, running_browser, running_stage
from tests.servers import Servers
from tests.tools import CHROMIUM, require


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Debian's Chromium."""
    require(CHROMIUM)
    async with running_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
async def stage(servers: Servers) -> AsyncIterator[Stage]:
    """The pages of a tracker that has been told of sagas in every state."""
    async with running_stage(servers) as stage:
        await stage.seed()
        yield stage
