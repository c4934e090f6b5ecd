"""Optional tools are asked whether they work; where they do not, tests are skipped and it is said once."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from compose.local.system_packages import NotProvided
from tests import tools
from tests.tools import COMPOSE, ENGINE, PROMETHEUS, TOOLS, Tool

ROOT = Path(__file__).parents[2]
NO_PLUG_IN = "echo \"docker: 'compose' is not a docker command.\" >&2; exit 1"
# As Docker 20.10 takes the plug-in's options for its own.
OLD_NO_PLUG_IN = "echo 'unknown flag: --short' >&2; exit 125"
SILENT_HELP = "exit 0"
PERMISSION = "echo 'permission denied while trying to connect to the Docker daemon socket' >&2; exit 1"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one folder on the PATH: what is not in it is not installed."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def put(folder: Path, name: str, script: str) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_what_is_not_installed_is_missing(path: Path) -> None:
    for tool in (ENGINE, COMPOSE):
        assert tool.ask() == "docker is not installed"
    assert PROMETHEUS.ask() == "promtool is not installed"


@pytest.mark.parametrize("script", [NO_PLUG_IN, OLD_NO_PLUG_IN, SILENT_HELP])
def test_a_docker_without_the_plug_in_has_no_compose(path: Path, script: str) -> None:
    put(path, "docker", script)
    assert COMPOSE.ask() == "docker has no compose plug-in"


@pytest.mark.parametrize(
    ("version", "problem"),
    [
        ("2.20.3", "docker compose is 2.20.3, older than 2.24.4"),
        ("v2.24.3", "docker compose is v2.24.3, older than 2.24.4"),
        ("1.29.2", "docker compose is 1.29.2, older than 2.24.4"),
        ("2.24.4", None),
        ("v2.26.1-4", None),
        ("v5.0.0", None),
    ],
)
def test_compose_has_to_be_new_enough(path: Path, version: str, problem: str | None) -> None:
    put(path, "docker", f'[ "$*" = "compose version --short" ] && echo {version}')
    assert COMPOSE.ask() == problem


def test_an_engine_that_does_not_answer_is_missing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(path, "docker", PERMISSION)
    assert "permission denied" in (ENGINE.ask() or "")
    put(path, "docker", "echo")
    assert ENGINE.ask() == "no Docker engine answers"
    put(path, "docker", "exec /bin/sleep 60")
    monkeypatch.setattr(tools, "ANSWER_SECONDS", 0.2)
    assert ENGINE.ask() == "docker info does not answer"
    put(path, "docker", "echo 28.2.2")
    assert ENGINE.ask() is None


def test_a_program_that_cannot_run_here_is_missing(path: Path) -> None:
    (path / "promtool").write_bytes(b"\x7fELF of another machine")
    (path / "promtool").chmod(0o755)
    assert (PROMETHEUS.ask() or "").startswith("promtool cannot be run")


def test_each_missing_tool_is_one_line_that_says_how_to_get_it() -> None:
    reasons = ["needs docker compose: docker has no compose plug-in"] * 13
    reasons += ["needs Jaeger: it has not been built", "the servers are not this rig's own"]
    compose, jaeger = tools.summary(reasons)
    assert compose.startswith(
        "13 tests skipped for want of docker compose: docker has no compose plug-in. To get"
    )
    assert jaeger.startswith(
        "1 test skipped for want of Jaeger: it has not been built. To get it: make jaeger"
    )


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_every_tool_says_how_to_get_it(tool: Tool) -> None:
    assert re.match(r"(apt-get install|make|docker pull|git fetch) ", tool.how_to_get_it)
    assert all(package in tool.how_to_get_it for package in tool.packages)


def test_what_debian_has_is_installed_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Debian 12, where the plug-in is too old and the engine is there but does not answer."""
    candidates = {"prometheus": "2.42.0+ds-5+b5", "docker.io": "20.10.24", "docker-compose": "1.29.2-3"}
    candidates["openssl"] = "3.0.17"
    installed_already = {"docker.io"}
    policies = [
        f"{name}) printf '{name}:\\n  Installed: %s\\n  Candidate: %s\\n' "
        f"'{version if name in installed_already else '(none)'}' '{version}';;"
        for name, version in candidates.items()
    ]
    put(path, "apt-get", "exit 0")
    put(path, "apt-cache", f"case $2 in {' '.join(policies)} esac")
    installed: list[str] = []

    def install(packages: list[str]) -> None:
        if "openssl" in packages:
            raise NotProvided("installing openssl failed; apt-get says:\nno room")
        installed.extend(packages)

    monkeypatch.setattr(tools, "install", install)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(tools, "problem_of", lambda tool: tool.ask())
    tools.provide_all()
    assert installed == ["prometheus"]
    lines = capsys.readouterr().err.splitlines()
    assert "docker compose: this Debian has nothing to install for it" in lines
    assert "openssl: no room" in lines


@pytest.mark.parametrize("processes", ["0", "2"])
def test_a_run_without_the_plug_in_fails_nothing(path: Path, processes: str) -> None:
    """What was 13 errors: "unknown flag: --env-file"."""
    put(path, "docker", OLD_NO_PLUG_IN)
    chosen = ["--numprocesses", processes, "tests/compose/test_cluster_file.py"]
    command = [sys.executable, "-m", "pytest", *chosen]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (line,) = [line for line in ran.stdout.splitlines() if "for want of" in line]
    count = re.match(r"(\d+) tests skipped for want of docker compose: ", line)
    assert count
    assert f"{count[1]} skipped in " in ran.stdout
