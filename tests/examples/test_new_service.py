"""`make new-service` writes a service that is in order as it stands; what it cannot write, it says."""

import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from compose.local.commands import RigError
from compose.local.state import CHECKOUT
from compose.new_service import write_service

TODAY = date(2026, 11, 28)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what linters look at: our own packages are where they are."""
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
    for package in ("events", "compose"):
        (tmp_path / package).symlink_to(CHECKOUT / package)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("loyalty", ["order.confirmed"]),
        ("audit", ["payment.captured", "order.confirmed", "order.cancelled", "order.confirmed"]),
        ("x", ["saga.timed_out"]),
    ],
)
def test_what_it_writes_is_in_order(checkout: Path, name: str, facts: list[str]) -> None:
    package = write_service(name, facts, checkout, TODAY).name
    assert sorted(path.name for path in (checkout / package).glob("*.py")) == [
        "__init__.py",
        "__main__.py",
        "decide.py",
        "facts.py",
        "repository.py",
        "service.py",
    ]
    for command in (
        ("ruff", "check", package),
        ("ruff", "format", "--check", package),
        ("mypy", "--strict", package),
        ("pytest", "-p", "no:cacheprovider", package),
    ):
        done = run(checkout, *command)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "facts", "why"),
    [
        ("payment", ["order.confirmed"], "there is a 'payment' already"),
        ("Loyalty", ["order.confirmed"], "is no name for a service"),
        ("../loyalty", ["order.confirmed"], "is no name for a service"),
        ("class", ["order.confirmed"], "is no name for a service"),
        ("loyalty", ["order.confirmd"], "no fact is named 'order.confirmd'; there are: fulfillment"),
        ("loyalty", [], "HEARS=order.confirmed"),
    ],
)
def test_what_it_cannot_write_it_says(tmp_path: Path, name: str, facts: list[str], why: str) -> None:
    with pytest.raises(RigError, match=why):
        write_service(name, facts, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_it_writes_over_nothing(tmp_path: Path) -> None:
    write_service("loyalty", ["order.confirmed"], tmp_path)
    with pytest.raises(RigError, match="exists already"):
        write_service("loyalty", ["order.confirmed"], tmp_path)
