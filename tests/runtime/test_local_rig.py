"""The rig with servers of its own and stand-ins for the services: start, break, restart, stop."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aio_pika
import psutil
import psycopg
import pytest

from compose.local.commands import RigError
from compose.local.process_table import marked
from compose.local.rig import LocalRig
from compose.local.supervisor import MARK_VARIABLE
from compose.waiting import wait_until_ready
from tests.runtime.standin_system import standin_blueprint
from tests.servers import Servers, clean_environment, rig_folder, rig_on
from tests.tools import RABBITMQ, require

# It takes 4 on an idle machine, and was seen to take 17 on one that does much else.
QUICK_START_SECONDS = 60
# Of the processes on the session's servers, which may have a real system on them too.
PREFIX = "standin-"


def new_rig(folder: Path, **environment: str) -> LocalRig:
    return LocalRig(folder, blueprint=standin_blueprint(), environment={**clean_environment(), **environment})


@pytest.fixture(scope="module")
def private_servers() -> None:
    """Asks for servers that are started on this machine, whatever else the tests run against."""
    if os.environ.get("INFRA") == "docker":
        require(RABBITMQ)


@pytest.fixture(scope="module")
def rig(private_servers: None) -> Iterator[LocalRig]:
    """A whole system with private servers, up."""
    with rig_folder() as folder:
        rig = new_rig(folder)
        rig.up()
        yield rig
        rig.destroy()


@pytest.fixture
def light_rig(servers: Servers) -> Iterator[LocalRig]:
    """A rig that uses the session's servers, not up."""
    with rig_on(servers, standin_blueprint(PREFIX)) as rig:
        yield rig


def processes_of(rig: LocalRig) -> list[int]:
    rig_id = json.loads((rig.state_dir / "rig.json").read_text())["rig_id"]
    return [identity.pid for identity in marked(MARK_VARIABLE, rig_id)]


def variables_of(rig: LocalRig, name: str, instance: int = 1) -> dict[str, str]:
    """What the stand-in found in its environment."""
    with urllib.request.urlopen(f"{rig.addresses.http(name, instance)}/environment") as answer:
        found: dict[str, str] = json.load(answer)
        return found


def conditions(rig: LocalRig) -> dict[str, str]:
    return {component.name: component.condition for component in rig.status()}


def wait_until(condition: Callable[[], Any], timeout_seconds: float = 20) -> None:
    problem = wait_until_ready(lambda: None if condition() else "it is not so", timeout_seconds)
    assert problem is None, "it did not come true in time"


# -- up ---------------------------------------------------------------------------------------------


def test_everything_is_ready_and_up_again_starts_nothing(rig: LocalRig) -> None:
    assert set(conditions(rig).values()) == {"ready"}
    assert {"postgres", "rabbitmq", "order", "tracker", "sandbox"} <= conditions(rig).keys()
    assert rig.up() == []


def test_a_process_gets_its_own_addresses_and_no_administrators(rig: LocalRig) -> None:
    where, order = rig.addresses, variables_of(rig, "order")
    assert order["MURMURATION_DATABASE_URL"] == where.database_url("order")
    assert order["MURMURATION_BROKER_URL"] == where.broker_url("order")
    assert not [value for value in order.values() if where.postgres.password in value]
    assert not {"MURMURATION_POSTGRES_URL", "MURMURATION_RABBITMQ_URL"} & order.keys()
    payment = variables_of(rig, "payment")
    assert payment["MURMURATION_PROVIDER_URL"] == f"{where.http('sandbox')}/provider"
    assert "MURMURATION_CARRIER_URL" not in payment
    tracker = variables_of(rig, "tracker")
    assert tracker["MURMURATION_PAYMENT_URL"] == where.http("payment")
    assert tracker["MURMURATION_PROVIDER_LEDGER_URL"] == f"{where.http('sandbox')}/provider/ledger"


def test_a_role_gets_into_its_own_database_only(rig: LocalRig) -> None:
    names = rig.addresses.database_passwords.keys()
    for name in names:
        url = rig.addresses.database_url(name)
        psycopg.connect(url).close()
        for other in names - {name}:
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                psycopg.connect(f"{url.removesuffix(f'/{name}')}/{other}")
    own = rig.addresses.database_url("order")
    wrong = own.replace(rig.addresses.database_passwords["order"], "guessed")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)


def test_nothing_listens_beyond_loopback(rig: LocalRig) -> None:
    ports = json.loads((rig.state_dir / "rig.json").read_text())["ports"]
    listening: dict[int, set[str]] = {}
    for socket in psutil.net_connections("tcp"):
        if socket.status == psutil.CONN_LISTEN and socket.laddr.port in ports.values():
            listening.setdefault(socket.laddr.port, set()).add(socket.laddr.ip)
    assert {ports["postgres"], ports["rabbitmq"], ports["rabbitmq-distribution"]} <= listening.keys()
    loopback = {"127.0.0.1", "::1"}
    assert not {port: found for port, found in listening.items() if found - loopback}


def test_the_state_is_nobody_elses_business(rig: LocalRig) -> None:
    assert (rig.state_dir / "rig.json").stat().st_mode & 0o077 == 0
    assert (rig.state_dir / "logs").stat().st_mode & 0o077 == 0


# -- breaking it ------------------------------------------------------------------------------------


async def publish(url: str, body: bytes) -> None:
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, "standin")


async def consume(url: str) -> bytes | None:
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        message = await (await channel.get_queue("standin", ensure=False)).get(no_ack=True, fail=False)
        return None if message is None else message.body


async def test_killed_servers_come_back_with_their_data(rig: LocalRig) -> None:
    await publish(rig.addresses.broker_url("order"), b"kept through a kill")
    with psycopg.connect(rig.addresses.database_url("order")) as connection:
        connection.execute("INSERT INTO kept VALUES ('through a kill')")
    rig.kill("postgres")
    rig.kill("rabbitmq")
    assert conditions(rig)["postgres"] == conditions(rig)["rabbitmq"] == "stopped"
    rig.start("postgres")
    rig.start("rabbitmq")
    with psycopg.connect(rig.addresses.database_url("order")) as connection:
        found = connection.execute("SELECT count(*) FROM kept WHERE word = 'through a kill'").fetchone()
    assert found == (1,)
    assert await consume(rig.addresses.broker_url("order")) == b"kept through a kill"


def test_a_paused_server_answers_nothing_until_it_is_resumed(rig: LocalRig) -> None:
    rig.pause("postgres")
    assert conditions(rig)["postgres"] == "not ready"
    rig.resume("postgres")
    rig.wait_ready("postgres")


def test_a_second_instance_has_its_own_port_and_the_same_database(rig: LocalRig) -> None:
    rig.start("order", instance=2, extra_environment={"MURMURATION_BATCH_SIZE": "7"})
    second = variables_of(rig, "order", instance=2)
    assert second["MURMURATION_DATABASE_URL"] == variables_of(rig, "order")["MURMURATION_DATABASE_URL"]
    assert second["MURMURATION_BATCH_SIZE"] == "7"
    assert conditions(rig)["order-2"] == "ready"
    rig.kill("order", instance=2)
    assert "order-2" not in conditions(rig)
    assert conditions(rig)["order"] == "ready"


def test_a_process_that_ends_by_itself_is_shown_as_dead(rig: LocalRig) -> None:
    pid = rig.pid("tracker")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: conditions(rig)["tracker"] == "died")
    assert rig.up() == ["tracker"]


def test_a_process_that_ignores_sigterm_is_killed(rig: LocalRig) -> None:
    rig.start("order", instance=3, extra_environment={"STANDIN": "stubborn"})
    pid = rig.pid("order", instance=3)
    rig.stop("order", instance=3, grace_seconds=0.3)
    assert pid not in processes_of(rig)


def test_a_process_that_dies_at_start_is_reported_with_its_log(rig: LocalRig) -> None:
    with pytest.raises(RigError, match="order-4 ended with exit code 3 before it was ready") as error:
        rig.start("order", instance=4, extra_environment={"STANDIN": "dies"})
    assert "the stand-in was told to die" in error.value.details


def test_a_process_that_never_gets_ready_is_reported_with_what_it_says(rig: LocalRig) -> None:
    with pytest.raises(RigError, match="not ready after 5 s: /readyz says 503: told to stay unready"):
        rig.start("order", instance=5, extra_environment={"STANDIN": "unready"}, timeout_seconds=5)
    rig.stop("order", instance=5)


# -- down -------------------------------------------------------------------------------------------


async def test_down_leaves_no_process_and_the_next_start_is_quick_with_all_data(rig: LocalRig) -> None:
    await publish(rig.addresses.broker_url("order"), b"kept through a stop")
    with psycopg.connect(rig.addresses.database_url("order")) as connection:
        connection.execute("INSERT INTO kept VALUES ('through a stop')")
    assert processes_of(rig)
    rig.down()
    assert processes_of(rig) == []
    assert set(conditions(rig).values()) == {"stopped"}
    started = time.monotonic()
    rig.up()
    assert time.monotonic() - started < QUICK_START_SECONDS
    assert await consume(rig.addresses.broker_url("order")) == b"kept through a stop"
    with psycopg.connect(rig.addresses.database_url("order")) as connection:
        found = connection.execute("SELECT count(*) FROM kept WHERE word = 'through a stop'").fetchone()
    assert found == (1,)


async def test_a_broker_killed_right_after_its_first_start_keeps_its_queues(private_servers: None) -> None:
    with rig_folder() as folder:
        rig = new_rig(folder)
        rig.up_servers()
        await publish(rig.addresses.rabbitmq_admin_url, b"kept at once")
        rig.kill("rabbitmq")
        rig.start("rabbitmq")
        assert await consume(rig.addresses.rabbitmq_admin_url) == b"kept at once"
        wait_until(lambda: "standin.stream\trunning" in rig.rabbitmqctl("list_queues", "name", "state"))
        rig.destroy()


@pytest.mark.parametrize("moment", ["starting rabbitmq", "running"])
def test_sigterm_at_any_moment_leaves_no_process(private_servers: None, moment: str) -> None:
    with rig_folder() as folder:
        command = subprocess.Popen(
            [sys.executable, "-m", "tests.runtime.rig_command", str(folder)],
            env=clean_environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert command.stdout is not None
        for line in command.stdout:
            if line.strip() == moment:
                break
        command.send_signal(signal.SIGTERM)
        command.communicate(timeout=60)
        assert command.returncode == 128 + signal.SIGTERM
        assert processes_of(new_rig(folder)) == []


# -- with servers of one's own ----------------------------------------------------------------------


def test_given_servers_are_used_and_never_stopped(light_rig: LocalRig, servers: Servers) -> None:
    with light_rig.running():
        assert "postgres" not in conditions(light_rig)
        assert set(conditions(light_rig).values()) == {"ready"}
        with pytest.raises(RigError, match="postgres is a server of your own"):
            light_rig.stop("postgres")
    assert processes_of(light_rig) == []
    psycopg.connect(servers.postgres_url).close()


def test_a_command_leaves_running_what_ran_before_it(light_rig: LocalRig) -> None:
    light_rig.up()
    light_rig.stop("standin-tracker")
    with light_rig.running():
        assert conditions(light_rig)["standin-tracker"] == "ready"
    assert conditions(light_rig)["standin-tracker"] == "stopped"
    assert conditions(light_rig)["standin-order"] == "ready"
    light_rig.down()


def test_what_runs_is_found_again_without_the_urls_it_was_started_with(light_rig: LocalRig) -> None:
    light_rig.up()
    later = LocalRig(light_rig.state_dir, blueprint=light_rig.blueprint, environment=clean_environment())
    assert later.addresses.postgres_admin_url == light_rig.addresses.postgres_admin_url
    assert set(conditions(later).values()) == {"ready"}
    elsewhere = {**clean_environment(), "MURMURATION_POSTGRES_URL": "postgresql://admin@127.0.0.1:9/postgres"}
    with pytest.raises(RigError, match="running with another postgres"):
        LocalRig(light_rig.state_dir, blueprint=light_rig.blueprint, environment=elsewhere).up()
    later.down()
    assert processes_of(light_rig) == []


def test_a_failing_start_stops_what_it_had_started(servers: Servers) -> None:
    with rig_on(servers, standin_blueprint(PREFIX), STANDIN="dies") as rig:
        with pytest.raises(RigError, match="ended with exit code 3"):
            rig.up()
        assert processes_of(rig) == []


def test_two_commands_at_once_start_everything_once(light_rig: LocalRig) -> None:
    where = light_rig.addresses
    other = LocalRig(light_rig.state_dir, blueprint=light_rig.blueprint, environment=where.environment)
    started: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda rig=rig: started.append(rig.up())) for rig in (light_rig, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = {spec.name for spec in light_rig.blueprint.processes}
    assert sorted(map(len, started)) == [0, len(names)]
    assert len(processes_of(light_rig)) == len(names)
    light_rig.down()


def test_an_unreachable_server_of_ones_own_is_one_clear_line() -> None:
    with rig_folder() as folder:
        nowhere = "postgresql://admin:secret@127.0.0.1:9/postgres"
        rig = new_rig(
            folder, MURMURATION_POSTGRES_URL=nowhere, MURMURATION_RABBITMQ_URL="amqp://a:b@127.0.0.1:9/"
        )
        with pytest.raises(RigError, match=r"127\.0\.0\.1:9: ") as error:
            rig.up()
        assert "secret" not in str(error.value)
        assert "\n" not in str(error.value)
