"""A real system to break, for the drills that tests run."""

import os
from collections.abc import Iterator

import pytest

from compose.drills.local_rig import LocalDrillRig
from compose.drills.rig import drill_environment
from compose.local.rig import LocalRig
from tests.servers import rig_folder


@pytest.fixture(scope="package")
def local_rig() -> Iterator[LocalRig]:
    """The system from local processes, up, as `make drills` runs it."""
    if os.environ.get("INFRA") == "docker":
        pytest.skip("local drills break servers of their own")
    with rig_folder() as folder:
        rig = LocalRig(folder, environment=drill_environment(os.environ))
        rig.up()
        yield rig
        rig.down()


@pytest.fixture
def rig(local_rig: LocalRig) -> LocalDrillRig:
    return LocalDrillRig(local_rig)
