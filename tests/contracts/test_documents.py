"""What the documents name exists: tests, files and facts."""

import re
from pathlib import Path

import pytest

from compose.map import README
from events.runtime.settings import ServiceSettings
from events.service import STREAM
from saga_tracker.settings import TrackerSettings
from tests.contracts.published import PUBLISHED

ROOT = README.parent
CHOREOGRAPHY = ROOT / "events" / "CHOREOGRAPHY.md"
GOING_FURTHER = ROOT / "compose" / "GOING_FURTHER.md"
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
# What is there only where somebody wrote it.
A_PERSONS_OWN = {"compose/settings.env"}
OWNERS = "order|inventory|payment|fulfillment|notification|saga"


@pytest.mark.parametrize("document", [README, GOING_FURTHER, WORKFLOW], ids=lambda path: path.name)
def test_every_command_it_names_is_one_of_makes(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|run: |^ *)make ([a-z-]+)", document.read_text(), re.MULTILINE))
    assert named
    assert named <= targets


@pytest.mark.parametrize(
    "document", [README, CHOREOGRAPHY, GOING_FURTHER], ids=lambda document: document.name
)
def test_every_file_it_names_exists(document: Path) -> None:
    named = re.findall(r"`((?:events|compose|tests|saga_tracker|\w+_svc)/[\w/.-]+)", document.read_text())
    assert named
    for path in set(named) - A_PERSONS_OWN:
        assert (ROOT / path).exists(), path


def test_every_test_it_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", CHOREOGRAPHY.read_text())
    assert named
    for path, name in named:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), (
            f"{path}::{name}"
        )


def test_every_fact_it_names_is_published() -> None:
    named = re.findall(rf"`((?:{OWNERS})\.[a-z_]+)`", CHOREOGRAPHY.read_text())
    assert named
    assert set(named) <= {name.rpartition(".")[0] for name in PUBLISHED}


def test_it_says_how_each_step_before_the_pivot_is_undone() -> None:
    """Of the steps that leave something behind."""
    forward = [
        "order.created",
        "inventory.stock_reserved",
        "payment.held",
        "payment.captured",
        "fulfillment.shipment_scheduled",
    ]
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \| ([^|]+) \| [^|]+ \|$", CHOREOGRAPHY.read_text(), re.MULTILINE)
    undone_by = {stated.strip("` "): undo for stated, undo in rows}
    for fact in forward:
        assert re.search(rf"`(?:{OWNERS})\.", undone_by[fact]), fact


def test_the_deadlines_are_those_of_the_settings() -> None:
    named = re.findall(r"^\| `([A-Z_]+_SECONDS)`.* \| ([^|]+) \|$", README.read_text(), re.MULTILINE)
    fields = {
        field.upper(): about.get_default(call_default_factory=True)
        for field, about in TrackerSettings.model_fields.items()
    }
    assert named
    assert {name for name, _ in named} <= fields.keys()
    for name, default in named:
        if default.isdigit():
            in_code = fields[name]
            assert set(in_code.values() if isinstance(in_code, dict) else [in_code]) == {float(default)}, name


def test_what_going_further_tells_is_what_the_code_has() -> None:
    text = GOING_FURTHER.read_text()
    settings = {name.upper() for name in (*ServiceSettings.model_fields, *TrackerSettings.model_fields)}
    for name in re.findall(r"`MURMURATION_([A-Z_]+)", text):
        assert name in settings, name
    bounds = dict(re.findall(r"`([A-Z_]+)` ?\((\d+(?:\.\d+)?)", text))
    assert bounds
    for name, value in bounds.items():
        assert str(ServiceSettings.model_fields[name.lower()].default) in (value, f"{value}.0"), name
    assert f"{STREAM}" in text
