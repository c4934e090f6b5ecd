"""The system in which the release before runs beside this one."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import pytest

from compose.demo.shop import open_shop
from compose.local.rig import LocalRig
from compose.release_before import environment_of, unpack
from tests.servers import clean_environment, container_servers, rig_folder, rig_on
from tests.system.stage import System
from tests.tools import RELEASE_BEFORE, require

SLOW_SECONDS = "1"


@pytest.fixture(scope="session")
def before(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a process is told to be one of the release before."""
    require(RELEASE_BEFORE)
    return environment_of(unpack(tmp_path_factory.mktemp("before") / "release"))


@pytest.fixture(scope="session")
def rig(before: dict[str, str]) -> Iterator[LocalRig]:
    """A rig that is up: migrated and provisioned by this release.

    Where INFRA=docker, on containers of its own: on the session's, other rigs have databases of these names.
    """
    assert before
    with ExitStack() as stack:
        if os.environ.get("INFRA") == "docker":
            servers = stack.enter_context(container_servers())
            rig = stack.enter_context(rig_on(servers, MURMURATION_SANDBOX_SLOW_SECONDS=SLOW_SECONDS))
        else:
            folder = stack.enter_context(rig_folder())
            environment = {**clean_environment(), "MURMURATION_SANDBOX_SLOW_SECONDS": SLOW_SECONDS}
            rig = LocalRig(folder, environment=environment)
        rig.up()
        yield rig
        rig.down()


@pytest.fixture(scope="session")
async def system(rig: LocalRig) -> AsyncIterator[System]:
    """The running system, with a client."""
    async with open_shop(rig.addresses) as shop:
        yield System(rig, shop)
