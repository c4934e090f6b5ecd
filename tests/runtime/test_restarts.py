"""What ends by itself is started again, with growing pauses; what was stopped on purpose is not."""

import os
import signal
import sys
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from compose.cli import status_table
from compose.local import process_table
from compose.local.commands import RigError
from compose.local.rig import LocalRig
from compose.local.supervise import Pauses, Restarter, up_supervised
from compose.local.supervisor import ComponentStatus
from tests.runtime.standin_system import standin_blueprint
from tests.runtime.test_local_rig import PREFIX, processes_of, variables_of, wait_until
from tests.servers import Servers, rig_on

ORDER, TRACKER, SANDBOX = f"{PREFIX}order", f"{PREFIX}tracker", "sandbox"


class Supervised:
    """A rig that is up, and a restarter whose clock is the test's."""

    def __init__(self, rig: LocalRig) -> None:
        me = process_table.identify(os.getpid())
        assert me is not None
        with rig.changing() as where:
            where.state.supervisor = me
        self.rig = rig
        self.now = 1_000.0
        self.restarter = Restarter(rig, me, Pauses(1, 30, 60), clock=lambda: self.now)
        assert self.restarter.look()

    def after(self, seconds: float) -> None:
        """Let time pass, and have it look."""
        self.now += seconds
        assert self.restarter.look()

    def end(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """As it may end by itself, and nobody of this rig knows."""
        known = self.rig.state.running(name)
        assert known is not None
        os.kill(known.pid, number)
        wait_until(lambda: self.rig.state.running(name) is None)

    def status_of(self, name: str) -> ComponentStatus:
        return next(found for found in self.rig.status() if found.name == name)


@pytest.fixture
def supervised(servers: Servers) -> Iterator[Supervised]:
    with rig_on(servers, standin_blueprint(PREFIX)) as rig:
        rig.up()
        yield Supervised(rig)
        with rig.changing() as where:
            where.state.supervisor = None


@pytest.fixture
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    with capture_logs() as lines:
        yield lines


def test_it_is_started_again_after_a_pause_and_the_status_says_why(supervised: Supervised) -> None:
    supervised.end(ORDER)
    supervised.after(0)
    died = supervised.status_of(ORDER)
    assert (died.condition, died.restarts) == ("died", 0)
    assert died.ended.startswith("was killed by SIGKILL at ")
    supervised.after(0.9)
    assert supervised.rig.pid(ORDER) is None
    supervised.after(0.2)
    supervised.rig.wait_ready(ORDER)
    again = supervised.status_of(ORDER)
    assert (again.condition, again.restarts) == ("ready", 1)
    row = next(
        cells for cells in zip(*(column.cells for column in status_table([again]).columns), strict=True)
    )
    assert row[-1] == f"1; {again.ended}"
    supervised.end(ORDER, signal.SIGTERM)
    supervised.after(0)
    assert supervised.status_of(ORDER).ended.startswith("ended with exit code 0 at ")


def test_the_pauses_grow_up_to_a_bound_until_it_has_run_well(
    supervised: Supervised, logged: list[MutableMapping[str, Any]]
) -> None:
    for _ in range(7):
        supervised.end(SANDBOX)
        supervised.after(0)
        supervised.after(30)
        supervised.after(1)
    supervised.after(60)
    supervised.end(SANDBOX)
    supervised.after(0)
    ends = [line for line in logged if line["event"] == "process_ended"]
    assert [line["again_in_seconds"] for line in ends] == [1, 2, 4, 8, 16, 30, 30, 1]
    assert {line["name"] for line in ends} == {SANDBOX}


def test_what_was_stopped_killed_or_frozen_on_purpose_is_left_alone(supervised: Supervised) -> None:
    rig = supervised.rig
    supervised.end(TRACKER)
    supervised.after(0)
    rig.up()  # somebody was faster
    rig.kill(ORDER)
    rig.stop(f"{PREFIX}payment")
    rig.pause(SANDBOX)
    tracker = rig.pid(TRACKER)
    for _ in range(5):
        supervised.after(40)
    assert rig.pid(ORDER) is rig.pid(f"{PREFIX}payment") is None
    assert rig.pid(TRACKER) == tracker
    assert supervised.status_of(ORDER).condition == "stopped"
    assert sum(found.restarts for found in rig.status()) == 0
    rig.resume(SANDBOX)
    rig.start(ORDER)
    supervised.after(1)
    supervised.end(ORDER)
    supervised.after(0)
    supervised.after(1)
    rig.wait_ready(ORDER)


def test_one_that_was_given_more_settings_than_others_is_given_them_again(supervised: Supervised) -> None:
    supervised.rig.start(ORDER, instance=2, extra_environment={"MURMURATION_BATCH_SIZE": "7"})
    supervised.after(0)
    supervised.end(f"{ORDER}-2")
    supervised.after(0)
    supervised.after(1)
    supervised.rig.wait_ready(ORDER, instance=2)
    assert variables_of(supervised.rig, ORDER, instance=2)["MURMURATION_BATCH_SIZE"] == "7"


def test_a_start_that_fails_is_tried_again(
    supervised: Supervised, logged: list[MutableMapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: str) -> None:
        raise RigError("its port is taken by another program")

    supervised.end(ORDER)
    supervised.after(0)
    with monkeypatch.context() as patched:
        patched.setattr(supervised.rig, "start_again", refuse)
        supervised.after(1)
    supervised.after(1.9)
    assert supervised.rig.pid(ORDER) is None
    supervised.after(0.2)
    supervised.rig.wait_ready(ORDER)
    events = [(line["event"], line.get("again_in_seconds")) for line in logged]
    assert events == [("process_ended", 1), ("process_not_started", 2), ("process_started_again", None)]


def test_it_goes_on_for_as_long_as_it_is_the_supervisor_and_there_is_something(
    supervised: Supervised,
) -> None:
    with supervised.rig.changing() as where:
        where.state.supervisor = None
    assert not supervised.restarter.look()
    supervised.rig.destroy()
    assert not supervised.restarter.look()


def test_up_leaves_a_supervisor_behind_and_down_takes_it_away(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rig_on(servers, standin_blueprint(PREFIX)) as rig:
        for name, value in rig.addresses.environment.items():
            monkeypatch.setenv(name, value)
        command = [sys.executable, "-m", "tests.runtime.supervise_command", str(rig.state_dir)]
        started = up_supervised(command)
        assert isinstance(started, list)
        assert sorted(started) == sorted(spec.name for spec in rig.blueprint.processes)
        assert rig.is_supervised
        pid = rig.pid(TRACKER)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: rig.pid(TRACKER) not in (None, pid))
        rig.wait_ready(TRACKER)
        again = next(found for found in rig.status() if found.name == TRACKER)
        assert again.restarts == 1
        assert again.ended.startswith("was killed by SIGKILL at ")
        assert "process_started_again" in rig.log("supervisor").read_text()
        supervisor = rig.state.supervisor
        assert supervisor is not None
        rig.down()
        assert not supervisor.is_running()
        assert processes_of(rig) == []
        assert [found.restarts for found in rig.status()] == [0] * len(started)


def test_an_up_that_fails_leaves_nothing_behind(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    with rig_on(servers, standin_blueprint(PREFIX), STANDIN="dies") as rig:
        for name, value in rig.addresses.environment.items():
            monkeypatch.setenv(name, value)
        command = [sys.executable, "-m", "tests.runtime.supervise_command", str(rig.state_dir)]
        assert up_supervised(command) == 1
        assert not rig.is_supervised
        assert processes_of(rig) == []
