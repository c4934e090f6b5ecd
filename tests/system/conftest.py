"""One real system for the whole session: every process and its servers, deleted afterwards."""

import os
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from compose.demo.command import SETTINGS as DEMO_SETTINGS
from compose.demo.shop import open_shop
from compose.local.rig import LocalRig
from tests.servers import Servers, running_rig
from tests.system.stage import System

# The sandbox's slow answers: slow enough to act meanwhile, quick enough for many tests. What does not fit is
# looked at again soon.
SETTINGS = {
    "MURMURATION_SANDBOX_SLOW_SECONDS": "1",
    "MURMURATION_RECONCILIATION_INTERVAL_SECONDS": "1",
    # As the demo has it: so a service that is frozen is late soon.
    **DEMO_SETTINGS,
    "MURMURATION_RECONCILIATION_SETTLE_SECONDS": "2",
    "MURMURATION_RECONCILIATION_RECHECK_SECONDS": "2",
}
LOG_LINES = 15


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure what the processes complained of: their logs are deleted with the rig."""
    report = yield
    found: Any = getattr(item, "funcargs", {}).get("rig")
    if report.failed and isinstance(found, LocalRig):
        for log in sorted((found.state_dir / "logs").glob("*.log")):
            complaints = (line for line in log.read_text(errors="replace").splitlines() if _complains(line))
            report.sections.append((log.name, "\n".join(deque(complaints, LOG_LINES))))
    return report


def _complains(line: str) -> bool:
    return '"level":"info"' not in line and "[info]" not in line


@contextmanager
def rig_of_its_own(variables: Mapping[str, str]) -> Iterator[LocalRig]:
    """For the module that has these settings besides, or breaks more than one system may be broken."""
    if os.environ.get("INFRA") == "docker":
        pytest.skip("this system has servers of its own")
    with running_rig({**SETTINGS, **variables}) as rig:
        yield rig


@pytest.fixture(scope="session")
def rig(request: pytest.FixtureRequest) -> Iterator[LocalRig]:
    """The running rig. Where INFRA=docker, on the session's containers, which a test cannot stop."""
    given = {}
    if os.environ.get("INFRA") == "docker":
        servers: Servers = request.getfixturevalue("servers")
        given["MURMURATION_POSTGRES_URL"] = servers.postgres_url
        given["MURMURATION_RABBITMQ_URL"] = servers.new_vhost()
    with running_rig({**SETTINGS, **given}) as rig:
        yield rig


@pytest.fixture(scope="module")
async def system(rig: LocalRig) -> AsyncIterator[System]:
    """The running system, with a client. A module with a rig of its own gets that one."""
    async with open_shop(rig.addresses) as shop:
        yield System(rig, shop)


@pytest.fixture
def own_servers(rig: LocalRig) -> None:
    """For tests that stop a server: skipped where the servers are not the rig's own."""
    if rig.addresses.external_postgres:
        pytest.skip("the servers are not this rig's own")
