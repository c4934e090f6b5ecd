"""The parts of the rig that need no server: choosing, remembering, recognising, asking."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from compose.local import process_table, rabbitmq, system_packages
from compose.local.commands import RigError, Terminated, ending_in_order, uninterrupted
from compose.local.components import gateway_variables, instance_name
from compose.local.ports import LOWEST_PORT, free_port, highest_port
from compose.local.postgres import PostgresBinaries, choose, inspect, newest_first
from compose.local.process_table import Launch, ProcessIdentity, RunAs, identify, log_tail
from compose.local.provision import url_of
from compose.local.rabbitmq import SCRIPTS, PrivateRabbit, RabbitPorts, choose_scripts, version_key
from compose.local.state import (
    RigState,
    StateFile,
    fallback_folder,
    is_reachable,
    places_of,
    prepare_places,
    remove_places,
)
from compose.local.system_packages import NotProvided, provide

NOBODY = RunAs("nobody", 65534, 65534)


def executable(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script)
    path.chmod(0o755)
    return path


# -- PostgreSQL and RabbitMQ on this machine ----------------------------------------------------------


def binaries(version: int, *, from_wheel: bool = False) -> PostgresBinaries:
    return PostgresBinaries(Path(f"/somewhere/{version}/bin"), version, from_wheel)


def test_the_first_postgres_that_is_new_enough_is_chosen() -> None:
    found = [*newest_first([binaries(9), binaries(15), binaries(13)]), binaries(18, from_wheel=True)]
    assert choose(found, data_version=None) == binaries(15)
    assert choose([binaries(13), binaries(18, from_wheel=True)], data_version=None).from_wheel


def test_data_keeps_the_postgres_that_made_it() -> None:
    found = [binaries(17), binaries(15), binaries(18, from_wheel=True)]
    assert choose(found, data_version=15) == binaries(15)
    with pytest.raises(RigError, match="made by PostgreSQL 16, which is no longer on this machine"):
        choose(found, data_version=16)


def test_no_postgres_is_one_line_on_what_to_install() -> None:
    with pytest.raises(RigError, match="sudo apt-get install postgresql"):
        choose([], data_version=None)


def test_a_folder_is_a_postgres_only_with_a_server_and_initdb(tmp_path: Path) -> None:
    executable(tmp_path / "postgres", "#!/bin/sh\necho 'postgres (PostgreSQL) 17.2 (Debian 17.2-1)'\n")
    assert inspect(tmp_path) is None
    executable(tmp_path / "initdb", "#!/bin/sh\n")
    assert inspect(tmp_path) == PostgresBinaries(tmp_path, 17)


def test_rabbitmqs_own_scripts_are_not_taken_for_a_wrapper(tmp_path: Path) -> None:
    executable(tmp_path / "wrapper" / "rabbitmq-server", "#!/bin/sh\n")
    for name in SCRIPTS:
        executable(tmp_path / "own" / name, "#!/bin/sh\n")
    assert choose_scripts([tmp_path / "wrapper", tmp_path / "own"]) == tmp_path / "own"
    assert choose_scripts([tmp_path / "wrapper"]) is None


def test_versions_are_ordered_as_numbers() -> None:
    folders = [Path("rabbitmq_server-3.9.1"), Path("rabbitmq_server-4.0.5"), Path("rabbitmq_server-3.10.8")]
    assert [path.name[-5:] for path in sorted(folders, key=version_key)] == ["3.9.1", ".10.8", "4.0.5"]


def broker_whose_tool(does: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> PrivateRabbit:
    executable(home / "rabbitmqctl", f"#!/bin/sh\n{does}\n")
    monkeypatch.setattr(rabbitmq, "find_scripts", lambda: home)
    monkeypatch.setattr(rabbitmq, "CONTROL_TIMEOUT_SECONDS", 0.5)
    return PrivateRabbit(home, RabbitPorts(1, 2, 3), home / "log")


def test_a_broker_that_never_answers_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = "if [ -e asked ]; then cp definitions.json taken; else touch asked; exec sleep 60; fi"
    broker_whose_tool(tool, tmp_path, monkeypatch).import_definitions({}, {"vhosts": []})
    assert (tmp_path / "taken").read_text() == '{"vhosts": []}'


def test_a_broker_that_still_does_not_answer_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq, "IMPORT_TIMEOUT_SECONDS", 0.6)
    silent = broker_whose_tool("echo again >> asked; exec sleep 60", tmp_path, monkeypatch)
    with pytest.raises(RigError, match=r"rabbitmqctl import_definitions is not done after 0.5 s"):
        silent.import_definitions({}, {})
    assert (tmp_path / "asked").read_text() == "again\n" * 2


# -- what a rig remembers -----------------------------------------------------------------------------


def test_the_state_survives_and_is_private(tmp_path: Path) -> None:
    file, state = StateFile(tmp_path), RigState()
    port, secret = state.port("order"), state.secret("database/order")
    me = identify(os.getpid())
    assert me is not None
    state.processes["order"] = me
    file.save(state)
    assert file.load() == state
    assert (file.load().port("order"), file.load().secret("database/order")) == (port, secret)
    assert file.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format_version": 0}'])
def test_a_damaged_state_is_one_clear_line(tmp_path: Path, content: str) -> None:
    file = StateFile(tmp_path)
    file.path.write_text(content)
    with pytest.raises(RigError, match="run `make clean` to start afresh"):
        file.load()


def test_a_reused_pid_is_not_taken_for_the_process_that_had_it() -> None:
    me = identify(os.getpid())
    assert me is not None
    assert me.is_running()
    boot, _, _ticks = me.started.rpartition(":")
    state = RigState(processes={"order": ProcessIdentity(me.pid, f"{boot}:1")})
    assert state.running("order") is None


def test_no_clock_adjustment_changes_who_a_process_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = identify(os.getpid())
    (tmp_path / str(os.getpid())).mkdir()
    for file in ("stat", f"{os.getpid()}/stat"):
        (tmp_path / file).write_text(Path("/proc", file).read_text())
    booted = psutil.boot_time()
    (tmp_path / "stat").write_text(f"btime {booted + 3_600:.0f}\n")
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    assert psutil.boot_time() == booted + 3_600
    assert me is not None
    assert me.is_running()
    assert identify(os.getpid()) == me


def test_a_zombie_does_not_run() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    identity = identify(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{child.pid}").exists()
    assert identity is None or not identity.is_running()
    assert identify(child.pid) is None
    child.wait()


def test_the_lock_lets_one_in_at_a_time(tmp_path: Path) -> None:
    first, second, waited = StateFile(tmp_path), StateFile(tmp_path), threading.Event()
    entered: list[str] = []

    def enter_second() -> None:
        with second.locked(waited.set):
            entered.append("second")

    thread = threading.Thread(target=enter_second)
    with first.locked() as outermost, first.locked() as inner:
        assert (outermost, inner) == (True, False)
        thread.start()
        assert waited.wait(10)
        entered.append("first")
    thread.join()
    assert entered == ["first", "second"]


# -- processes ----------------------------------------------------------------------------------------


def test_a_family_is_found_and_killed_and_the_mark_finds_strays(tmp_path: Path) -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'], stdin=sys.stdin)"
    environment = {**os.environ, "TEST_MARK": "of this test"}
    child = subprocess.Popen([sys.executable, "-c", script], env=environment, stdin=subprocess.PIPE)
    root = identify(child.pid)
    assert root is not None
    while len(family := process_table.family(root)) < 2 or len(marked()) < 2:
        pass
    assert {member.pid for member in family} == {member.pid for member in marked()}
    process_table.send(family, signal.SIGKILL)
    child.wait()
    assert process_table.wait_gone(family, timeout_seconds=10) == []
    assert marked() == []


def marked() -> list[ProcessIdentity]:
    return process_table.marked("TEST_MARK", "of this test")


def test_the_end_of_a_log_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "order.log"
    assert log_tail(log) == ""
    command = ["sh", "-c", "seq 1 1000; echo to stderr >&2; exit 4"]
    assert Launch(command, dict(os.environ), tmp_path, log).run(timeout_seconds=10) == 4
    assert log_tail(log, lines=3) == "999\n1000\nto stderr"


def test_a_signal_ends_a_command_in_order_but_not_its_clean_up() -> None:
    cleaned = []

    def command() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGINT)
            cleaned.append("wholly")

    with pytest.raises(Terminated) as ended, ending_in_order():
        command()
    assert cleaned == ["wholly"]
    assert ended.value.code == 128 + signal.SIGTERM


def test_a_signal_during_the_clean_up_of_a_finished_command_waits_for_its_end() -> None:
    cleaned = []

    def clean_up() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            cleaned.append("wholly")

    with pytest.raises(Terminated), ending_in_order():
        clean_up()
    assert cleaned == ["wholly"]


# -- places and addresses -----------------------------------------------------------------------------


def test_a_port_lies_below_those_of_outgoing_connections(tmp_path: Path) -> None:
    outgoing = tmp_path / "ip_local_port_range"
    outgoing.write_text("30000\t60999\n")
    assert highest_port(outgoing) == 29_999
    assert LOWEST_PORT <= free_port() <= highest_port()


def test_a_folder_behind_a_private_one_is_not_reachable(tmp_path: Path) -> None:
    public = Path("/usr/bin")
    assert is_reachable(public, NOBODY)
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (private / "inside").mkdir(mode=0o755)
    assert not is_reachable(private / "inside", NOBODY)
    owner = RunAs("owner", os.geteuid(), os.getegid())
    assert is_reachable(private / "inside", owner) == is_reachable(tmp_path, owner)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_an_unreachable_state_folder_moves_the_database_elsewhere(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    state_dir = tmp_path / "state"
    places = places_of(state_dir, NOBODY)
    prepare_places(places)
    assert places.postgres_home == fallback_folder(state_dir) / "postgres"
    assert is_reachable(places.postgres_home, NOBODY)
    assert places.postgres_home.stat().st_mode & 0o777 == 0o700
    remove_places(state_dir)
    assert not fallback_folder(state_dir).exists()
    assert not state_dir.exists()


def test_someone_elses_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "state").symlink_to(tmp_path / "theirs")
    with pytest.raises(RigError, match="belongs to another user"):
        prepare_places(places_of(tmp_path / "state", None))


def test_urls_are_derived_from_the_administrators() -> None:
    admin = "postgresql://admin:secret@db.example:5433/postgres?sslmode=require"
    assert url_of(admin, "order", "pw") == "postgresql://order:pw@db.example:5433/order?sslmode=require"


def test_a_gateway_gets_the_addresses_only_of_what_it_calls() -> None:
    assert gateway_variables(("push", "smtp"), 8090, 8025) == {
        "MURMURATION_PUSH_URL": "http://127.0.0.1:8090/push",
        "MURMURATION_SMTP_URL": "smtp://127.0.0.1:8025",
    }
    assert [instance_name("order", number) for number in (1, 2)] == ["order", "order-2"]


# -- the system's package manager ---------------------------------------------------------------------


@pytest.fixture
def apt_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an apt-get that only writes down what it was told; returns where."""
    record = tmp_path / "told"
    script = (
        f'#!/bin/sh\necho "$RUNLEVEL policy=$(cat {tmp_path}/policy-rc.d 2>&1 | tail -1) $*" >> {record}\n'
    )
    executable(tmp_path / "bin" / "apt-get", script)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr(system_packages, "POLICY_FILE", tmp_path / "policy-rc.d")
    monkeypatch.setattr(system_packages, "SYSTEMD_RUNNING", tmp_path / "no-systemd")
    return record


def be(monkeypatch: pytest.MonkeyPatch, *, root: bool, terminal: bool) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)


def test_root_without_a_terminal_installs_and_starts_no_server(
    apt_get: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be(monkeypatch, root=True, terminal=False)
    provide(["rabbitmq-server"], "RabbitMQ")
    update, install = apt_get.read_text().splitlines()
    assert update.startswith("1 policy=exit 101 ")
    assert update.endswith(" update")
    assert install.endswith(" install --yes --no-install-recommends rabbitmq-server")
    assert not system_packages.POLICY_FILE.exists()


def test_an_administrators_own_policy_is_left_alone(apt_get: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, root=True, terminal=False)
    system_packages.POLICY_FILE.write_text("exit 0\n")
    provide(["rabbitmq-server"], "RabbitMQ")
    assert "policy=exit 0 " in apt_get.read_text()
    assert system_packages.POLICY_FILE.read_text() == "exit 0\n"


def test_a_plain_user_without_a_terminal_is_shown_what_to_install(
    apt_get: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be(monkeypatch, root=False, terminal=False)
    with pytest.raises(
        NotProvided, match=r"^RabbitMQ is not installed: sudo apt-get install rabbitmq-server$"
    ):
        provide(["rabbitmq-server"], "RabbitMQ")
    assert not apt_get.exists()


@pytest.mark.parametrize(("answer", "installs"), [("\n", True), ("y\n", True), ("n\n", False)])
def test_on_a_terminal_it_asks_first(
    apt_get: Path, monkeypatch: pytest.MonkeyPatch, answer: str, installs: bool
) -> None:
    be(monkeypatch, root=True, terminal=True)
    monkeypatch.setattr(sys.stdin, "readline", lambda: answer, raising=False)
    if installs:
        provide(["rabbitmq-server"], "RabbitMQ")
    else:
        with pytest.raises(NotProvided, match="sudo apt-get install rabbitmq-server"):
            provide(["rabbitmq-server"], "RabbitMQ")
    assert apt_get.exists() == installs


def test_a_failing_apt_get_is_quoted_and_the_policy_removed(
    apt_get: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    be(monkeypatch, root=True, terminal=False)
    executable(tmp_path / "bin" / "apt-get", "#!/bin/sh\necho 'E: no network' >&2\nexit 100\n")
    with pytest.raises(NotProvided, match="E: no network"):
        provide(["rabbitmq-server"], "RabbitMQ")
    assert not system_packages.POLICY_FILE.exists()


def test_without_apt_get_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotProvided, match="with your system's package manager"):
        provide(["rabbitmq-server"], "RabbitMQ")
