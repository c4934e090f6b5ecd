"""What a run of drills makes and leaves behind, without a system to break."""

from io import StringIO
from pathlib import Path
from typing import cast

import pytest
from rich.console import Console

from compose.drills.command import Options, broken_on_purpose, drill
from compose.drills.container_rig import NO_DELAYS, ContainerSystem, project_of
from compose.drills.local_rig import LocalSystem
from compose.drills.outcome import Outcome, Report
from compose.drills.rig import DrillRig, System
from compose.local.commands import Progress, RigError, Terminated

SIGINT = 2


class Recording:
    """A system that remembers what it was told."""

    rig = cast(DrillRig, None)
    remains = "nowhere"
    left_something = False

    def __init__(self) -> None:
        self.calls: list[str] = []

    def up(self) -> None:
        self.calls.append("up")

    def stop(self) -> None:
        self.calls.append("stop")

    def delete(self) -> None:
        self.calls.append("delete")


def report_of(*outcomes: Outcome) -> Report:
    return Report("a rig", 1, "now", 1.0, list(outcomes))


def end_with(report: Report, error: BaseException | None) -> list[str]:
    """What a system is told when a run ends like this."""
    system = Recording()
    try:
        with broken_on_purpose(system, report):
            system.up()
            if error is not None:
                raise error
    except (RigError, Terminated, ValueError):
        pass
    return system.calls


PASSED = Outcome("drill", "a drill")
FAILED = Outcome("drill", "a drill", broke_off=["it is broken"])


@pytest.mark.parametrize(
    ("outcome", "error", "in_the_end"),
    [
        (PASSED, None, "delete"),
        (PASSED, Terminated(SIGINT), "delete"),
        (FAILED, None, "stop"),
        (FAILED, Terminated(SIGINT), "stop"),
        (PASSED, RigError("no space left"), "stop"),
        (PASSED, ValueError("a mistake of ours"), "stop"),
    ],
)
def test_what_is_worth_a_look_stays_and_nothing_runs(
    outcome: Outcome, error: BaseException | None, in_the_end: str
) -> None:
    assert end_with(report_of(outcome), error) == ["delete", "up", in_the_end]


def run(state_dir: Path, options: Options) -> tuple[bool, str]:
    printed = StringIO()
    passed = drill(state_dir, Console(file=printed, width=200), Progress(), {}, options)
    return passed, printed.getvalue()


def test_an_unknown_rig_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(RigError, match=r"no rig moon \(there are local, compose"):
        run(tmp_path / "state", Options(rig="moon"))
    assert not (tmp_path / "state").exists()


def test_without_an_engine_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RigError, match="no containers can run here: docker is not installed"):
        run(tmp_path / "state", Options(rig="compose"))


def test_a_drill_that_the_rig_cannot_do_is_skipped_and_nothing_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(ContainerSystem, "delete", lambda _: calls.append("delete"))
    monkeypatch.setattr(ContainerSystem, "up", lambda _: calls.append("up"))
    passed, printed = run(tmp_path, Options(only=["slow-database"], seed=1, rig="compose"))
    assert passed
    assert "up" not in calls
    line = next(line for line in printed.splitlines() if line.startswith("skipped"))
    assert line.split()[1] == "slow-database"
    assert line.endswith(f"cannot delay inventory from postgres: {NO_DELAYS}")
    assert "0 passed, 0 failed, 1 skipped" in printed
    assert "slow-database" in (tmp_path / "drills-report-compose.md").read_text()


def test_the_command_that_repeats_a_drill_is_shown() -> None:
    assert Options().again(7) == "SEED=7"
    assert Options(rig="compose", orders_per_second=12.5).again(7) == "SEED=7 RIG=compose RATE=12.5"


def test_systems_of_two_folders_do_not_meet(tmp_path: Path) -> None:
    first, second = (
        project_of(tmp_path / "a" / "drills-compose"),
        project_of(tmp_path / "b" / "drills-compose"),
    )
    assert first != second
    assert first.startswith("murmuration-drills-compose-")
    systems: list[System] = [make(tmp_path, Progress(), {}) for make in (LocalSystem, ContainerSystem)]
    assert [system.left_something for system in systems] == [False, False]
    assert list(tmp_path.iterdir()) == [], "making one touches nothing"
