"""Services are found by the entry points of what is installed; what cannot be used is named."""

import subprocess
import sys
from pathlib import Path

import pytest

from compose.local.state import CHECKOUT
from events.runtime.definition import CHOSEN_VARIABLE
from tests.servers import clean_environment

PROGRAM = (
    "from events.runtime.definition import installed_services as found; print(*(one.name for one in found()))"
)
FIVE = "order inventory payment fulfillment notification"


def found(folder: Path, services: str = "") -> tuple[int, str]:
    """What a program prints that has this folder first on its path."""
    environment = clean_environment() | {"PYTHONPATH": f"{folder}:{CHECKOUT}", CHOSEN_VARIABLE: services}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).strip()


def distribution(folder: Path, name: str, entry_points: str | None = None) -> None:
    metadata = folder / f"{name}.egg-info"
    metadata.mkdir()
    (metadata / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    if entry_points is not None:
        (metadata / "entry_points.txt").write_text(f"[murmuration.services]\n{entry_points}\n")


def test_they_come_in_the_order_of_the_chain(tmp_path: Path) -> None:
    assert found(tmp_path) == (0, FIVE)


def test_what_an_older_build_left_in_the_checkout_hides_nothing(tmp_path: Path) -> None:
    distribution(tmp_path, "murmuration")
    assert found(tmp_path) == (0, FIVE)


def test_some_of_them_can_be_chosen(tmp_path: Path) -> None:
    assert found(tmp_path, "payment, order") == (0, "order payment")


@pytest.mark.parametrize(
    ("entry_point", "services", "why"),
    [
        (
            "gifts = gifts_svc.service:SERVICE",
            "",
            "the service 'gifts' (gifts_svc.service:SERVICE) cannot be",
        ),
        ("gifts = order_svc.service:NOTHING", "", "cannot be loaded: module"),
        ("gifts = order_svc.service:decide", "", "order_svc.service:decide is no ServiceDefinition"),
        ("gifts = order_svc.service:SERVICE", "", "'order' is installed under another name, 'gifts'"),
        ("", "order,gifts", "MURMURATION_SERVICES: no service 'gifts' is installed, but fulfillment"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, entry_point: str, services: str, why: str) -> None:
    distribution(tmp_path, "gifts", entry_point)
    code, output = found(tmp_path, services)
    assert code != 0
    assert why in output
