"""A sixth service, somebody else's, is part of everything once it is installed: nothing else is edited.

Its folder is installed as the distribution that it is, and the same programs as ever are run with it.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from compose.local.state import CHECKOUT
from events.runtime.definition import CHOSEN_VARIABLE
from tests.servers import clean_environment, rig_folder

EXAMPLE = Path(__file__).parent / "loyalty_svc"
STORY = "tests/examples/story.py"
EVERY_ORDER = "tests/examples/every_order.py"
TIMEOUT_SECONDS = 250

pytestmark = pytest.mark.timeout(2 * TIMEOUT_SECONDS)


def run(environment: Mapping[str, str], *arguments: str) -> str:
    """What a Python program prints; it has to end well."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of programs that find it. It is built from a copy, for building leaves files behind."""
    folder = tmp_path_factory.mktemp("loyalty")
    source, target = folder / EXAMPLE.name, folder / "installed"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__"))
    environment = clean_environment()
    environment.pop(CHOSEN_VARIABLE)
    # What one wants of this run of pytest is not meant for those that are begun from it.
    environment.pop("PYTEST_ADDOPTS", None)
    pip = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(target))
    run(environment, *pip, str(source))
    return {**environment, "PYTHONPATH": f"{target}:{CHECKOUT}"}


@pytest.fixture(scope="module")
def rig(installed: dict[str, str]) -> Iterator[dict[str, str]]:
    """The environment of programs that have a rig of their own, whose data goes afterwards."""
    with rig_folder() as folder:
        environment = {**installed, "MURMURATION_STATE_DIR": str(folder)}
        yield environment
        run(environment, "-m", "compose", "down", "--delete-data")


def test_everything_that_lists_services_lists_it(installed: dict[str, str]) -> None:
    program = """if True:
        import json
        from compose.system import PROCESSES, SERVICES
        from events.messaging import definitions, topology
        from compose.map import draw_map
        from saga_tracker.settings import TrackerSettings
        print(json.dumps({
            "processes": [spec.package for spec in PROCESSES],
            "queues": sorted(name for name in topology.queues(SERVICES) if name.startswith("loyalty")),
            "users": definitions.user_names(SERVICES),
            "map": draw_map(SERVICES),
        }))
    """
    found = json.loads(run(installed, "-c", program))
    assert "loyalty_svc" in found["processes"]
    assert found["queues"] == ["loyalty.dead-letters", "loyalty.facts"]
    assert "loyalty" in found["users"]
    assert "| **loyalty** " in found["map"]
    assert "`loyalty.points_granted.v1`" in found["map"]


def test_the_demo_plays_with_it(rig: dict[str, str]) -> None:
    output = run(rig, "-m", "compose", "demo", "--only", "in_stock", "--only", "out_of_stock")
    assert "2 of 2 orders ended as expected" in output
    assert "loyalty       points_granted" in output
    assert "granted" in output.partition("invariants")[2]


def test_an_order_is_complete_once_it_has_done_its_part(rig: dict[str, str]) -> None:
    run(rig, "-m", "compose", "up")
    story = json.loads(run(rig, STORY).strip().splitlines()[-1])
    assert story["without it"] == {"state": "COMPLETING", "waits_for": ["loyalty"]}
    assert story["with it"] == {"state": "COMPLETED", "waits_for": []}
    assert story["facts"][-1] == "loyalty.points_granted"
    assert "FAIL" not in run(rig, "-m", "compose", "check")


def test_a_drill_finds_it_consistent(rig: dict[str, str]) -> None:
    output = run(rig, "-m", "compose", "drills", "--only", "everything-twice")
    assert "1 passed, 0 failed" in output


def test_every_order_of_things_ends_well_with_it(installed: dict[str, str]) -> None:
    output = run(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", EVERY_ORDER)
    assert output.startswith(".."), output
