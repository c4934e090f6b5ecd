"""What is read of the engine's answers, and what is made of its refusals. No engine is needed."""

import os
from pathlib import Path
from typing import Any

import pytest

from compose.containers import engine
from compose.containers.engine import Container, containers_of
from compose.containers.rig import ContainerAddresses, ContainerRig
from compose.containers.stack import PRIVATE_PORTS, private_stack
from compose.local.commands import RigError

TOKEN = {"ADMIN_TOKEN": "token", "BROKER_PASSWORD_ORDER": "pass"}


def container(service: str, number: int = 1, status: str = "running", **ports: int) -> Container:
    inner = {int(inside.removeprefix("p")): outside for inside, outside in ports.items()}
    return Container(f"id-{service}-{number}", service, number, status, "", 1, 0, inner)


def inspected(wanted: str, held: str | None) -> dict[str, Any]:
    """As `docker inspect` says it: the port that was asked for, and the one that is held."""
    return {
        "Id": "1",
        "Config": {"Labels": {engine.SERVICE_LABEL: "order", engine.NUMBER_LABEL: "2"}},
        "HostConfig": {"PortBindings": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": wanted}]}},
        "State": {"Status": "running" if held else "exited", "Pid": 7, "ExitCode": 0},
        "NetworkSettings": {
            "Ports": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": held}]} if held else {},
            "Networks": {"murmuration_web": {}, "murmuration_broker": {}},
        },
    }


@pytest.mark.parametrize(
    ("wanted", "held", "ports"),
    [
        ("18001", "18001", {8000: 18001}),
        ("18001", None, {8000: 18001}),
        ("18110-18119", "18112", {8000: 18112}),
        ("18110-18119", None, {}),
    ],
)
def test_a_port_is_the_held_one_or_else_the_one_that_it_will_have(
    wanted: str, held: str | None, ports: dict[int, int]
) -> None:
    found = engine._container(inspected(wanted, held))
    assert found.ports == ports
    assert found.name == "order-2"
    assert found.networks == {"murmuration_web", "murmuration_broker"}


def test_an_address_is_that_of_one_that_runs() -> None:
    where = ContainerAddresses(
        [
            container("order", 1, "exited", p8000=1),
            container("order", 2, p8000=2),
            container("rabbitmq", 1, "exited", p5672=3),
            container("rabbitmq-2", 1, p5672=4),
            container("tracker", 1, "exited", p8000=5),
        ],
        TOKEN,
    )
    assert where.http("order") == "http://127.0.0.1:2"
    assert where.http("tracker") == "http://127.0.0.1:5", "it will be there again"
    assert where.broker_url("order") == "amqp://order:pass@127.0.0.1:4/"


def test_the_engines_refusal_is_shown_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho a warning >&2; echo Error: no such network >&2; exit 1\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    refusal = "^docker network disconnect failed: Error: no such network$"
    with pytest.raises(RigError, match=refusal) as refused:
        engine.disconnect(container("order"), "murmuration_broker")
    assert refused.value.details == "a warning"
    with pytest.raises(RigError, match=r"^docker ps failed: "):
        containers_of("murmuration")


def test_a_container_that_nobody_has_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ContainerRig, "_parts", lambda _: [container("order")])
    with pytest.raises(RigError, match="no container of order-2"):
        ContainerRig().pid("order-2")
    assert ContainerRig().pid("order") == 1


def test_a_private_stack_shares_nothing_with_a_persons_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDER_PORT", "9000")
    monkeypatch.setenv("COMPOSE_PROFILES", "mail")
    stack = private_stack(tmp_path / "mine", "mine")
    environment = stack._environment()
    assert environment["COMPOSE_PROFILES"] == ""
    assert environment["IMAGE_TAG"] == "mine"
    assert environment["SETTINGS_FILE"] == str(tmp_path / "mine" / "settings.env")
    ports = [environment[name] for name in PRIVATE_PORTS]
    assert len(set(ports)) == len(ports)
    assert "9000" not in ports
    assert stack.env_file == tmp_path / "mine" / ".env"
    assert not (tmp_path / "mine").exists(), "until it is started"
