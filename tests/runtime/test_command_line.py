"""`python -m compose`: what it says, and with which exit code."""

import os
import re
import sys
from pathlib import Path

import pytest

from compose.cli import main
from compose.local.process_table import identify
from compose.local.state import RigState, StateFile
from compose.system import PROCESSES


def run(monkeypatch: pytest.MonkeyPatch, state_dir: Path, *arguments: str) -> int:
    """The exit code of one command."""
    monkeypatch.setattr(sys, "argv", ["compose", "--state-dir", str(state_dir), *arguments])
    try:
        return main()
    except SystemExit as ended:
        return int(ended.code or 0)


def test_nothing_running_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tmp_path / "none", "status") == 0
    assert capsys.readouterr().out == "nothing is running (make up starts it)\n"
    assert run(monkeypatch, tmp_path / "none", "down") == 0
    assert not (tmp_path / "none").exists()


def test_the_addresses_of_nothing_are_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tmp_path / "none", "env") == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "error: nothing is running: make up starts it\n"
    assert not (tmp_path / "none").exists()


def test_the_addresses_are_lines_for_a_shell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    me = identify(os.getpid())
    assert me is not None
    StateFile(tmp_path).save(RigState(processes={"order": me}))
    assert run(monkeypatch, tmp_path, "env") == 0
    printed = capsys.readouterr().out
    found = dict(re.findall(r"^export ([A-Z_]+)=(\S+)$", printed, re.MULTILINE))
    assert len(found) == len(printed.splitlines())
    assert {f"{spec.name.upper()}_URL" for spec in PROCESSES} < found.keys()
    assert found["BROKER_URL"].startswith("amqp://publisher:")
    assert re.fullmatch(r"\w{30,}", found["ADMIN_TOKEN"])


def test_a_system_of_which_only_a_part_runs_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    me = identify(os.getpid())
    assert me is not None
    StateFile(tmp_path).save(RigState(processes={"order": me}))
    assert run(monkeypatch, tmp_path, "status") == 1
    lines = capsys.readouterr().out.splitlines()
    order = next(line for line in lines if line.startswith("order "))
    assert "not ready (it does not" in order
    assert str(me.pid) in order
    assert "stopped" in next(line for line in lines if line.startswith("tracker "))


def test_an_expected_failure_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rig.json").write_text("{")
    assert run(monkeypatch, tmp_path, "status") == 1
    answer = capsys.readouterr()
    assert answer.out == ""
    assert answer.err == f"error: {tmp_path}/rig.json is damaged: run `make clean` to start afresh\n"
    assert run(monkeypatch, tmp_path, "down", "--delete-data") == 0
    assert not tmp_path.exists()


def test_logs_show_the_last_lines_and_know_which_there_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "order.log").write_text("one\ntwo\nthree\n")
    assert run(monkeypatch, tmp_path, "logs", "order", "-n", "2") == 0
    assert capsys.readouterr().out == "two\nthree\n"
    assert run(monkeypatch, tmp_path, "logs", "../../etc/passwd") == 1
    assert "there is no log of '../../etc/passwd' (known: order)" in capsys.readouterr().err
