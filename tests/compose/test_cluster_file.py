"""compose.yaml and cluster.yaml together, as `docker compose` reads them. Its client is needed, no engine.

Skipped, and says why, where there is none that is new enough.
"""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from compose.containers.env import FOLDER, broker_variable, read_env, secrets_in, write_missing
from compose.local.provision import ProcessSpec
from compose.system import PROCESSES
from tests.tools import COMPOSE, require

NODES = ("rabbitmq", "rabbitmq-2", "rabbitmq-3")
CLUSTER_FILE = FOLDER / "cluster.yaml"
CONFIGURATION = (FOLDER / "rabbitmq-cluster.conf").read_text()
SECRETS = secrets_in()
REPLICATED = [spec for spec in PROCESSES if spec.has_database]
MEGABYTE = 1024 * 1024

Service = dict[str, Any]


def merged(env_file: Path) -> dict[str, Any]:
    require(COMPOSE)
    files = ["--file", str(FOLDER / "compose.yaml"), "--file", str(CLUSTER_FILE)]
    command = ["docker", "compose", "--env-file", str(env_file), *files, "config", "--format", "json"]
    environment = {**os.environ, "SECRETS_FILE": str(env_file)}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == 0, answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


@pytest.fixture(scope="module")
def env_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cluster") / ".env"
    write_missing(path)
    return path


@pytest.fixture(scope="module")
def project(env_file: Path) -> dict[str, Any]:
    return merged(env_file)


@pytest.fixture(scope="module")
def services(project: dict[str, Any]) -> dict[str, Service]:
    found: dict[str, Service] = project["services"]
    return found


def test_its_data_is_not_that_of_the_single_stack(project: dict[str, Any]) -> None:
    assert project["name"] == "murmuration-cluster"
    assert {volume["name"] for volume in project["volumes"].values()} >= {
        f"murmuration-cluster_{node}" for node in NODES
    }


@pytest.mark.parametrize("spec", REPLICATED, ids=lambda spec: spec.name)
def test_every_process_is_replicated_and_knows_all_nodes(
    services: dict[str, Service], spec: ProcessSpec
) -> None:
    service = services[spec.name]
    assert service["deploy"]["replicas"] >= 2
    [port] = service["ports"]
    first, last = map(int, port["published"].split("-"))
    assert last - first + 1 >= 4, "a port for each replica"
    environment = service["environment"]
    others = [f"{node}:5672" for node in NODES[1:]]
    assert f"@{NODES[0]}:5672/" in environment["MURMURATION_BROKER_URL"]
    assert json.loads(environment["MURMURATION_BROKER_NODES"]) == others


def test_every_process_outlives_no_node(services: dict[str, Service]) -> None:
    """What starts after them is stopped before them, by Docker: it may need them to end in order."""
    for name in ("provision", *(spec.name for spec in REPLICATED)):
        needed = services[name]["depends_on"]
        assert {needed[node]["condition"] for node in NODES} == {"service_healthy"}, name
        assert "postgres" in needed, name


def test_no_two_take_the_same_port(services: dict[str, Service]) -> None:
    taken: list[int] = []
    for service in services.values():
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1"
            first, _, last = port["published"].partition("-")
            taken += range(int(first), int(last or first) + 1)
    assert len(set(taken)) == len(taken)


def test_everything_is_bounded(services: dict[str, Service]) -> None:
    for name, service in services.items():
        assert int(service["mem_limit"]) > 0, name
        assert service["pids_limit"] > 0, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    nodes = [int(services[node]["mem_limit"]) for node in NODES]
    assert max(nodes) <= 400 * MEGABYTE
    watermark = re.search(r"^vm_memory_high_watermark\.absolute = (\d+)MB$", CONFIGURATION, re.MULTILINE)
    assert watermark
    assert int(watermark[1]) * 1_000_000 <= 0.6 * min(nodes)


def test_the_nodes_are_alike_but_for_their_names_and_data(services: dict[str, Service]) -> None:
    alike = []
    for node in NODES:
        service = dict(services[node])
        assert service.pop("hostname") == node
        assert {port["target"] for port in service.pop("ports")} == {5672, 15672}
        [data] = [mount for mount in service["volumes"] if mount["target"] == "/var/lib/rabbitmq"]
        assert data["source"] == node
        service["volumes"] = [mount for mount in service["volumes"] if mount is not data]
        alike.append(service)
    assert alike[0] == alike[1] == alike[2]


def test_the_nodes_look_for_each_other_and_are_waited_for(services: dict[str, Service]) -> None:
    peers = re.findall(r"^cluster_formation\.classic_config\.nodes\.\d = (\S+)$", CONFIGURATION, re.MULTILINE)
    assert peers == [f"rabbit@{node}" for node in NODES]
    assert services["provision"]["environment"]["RABBITMQ_NODES"].split() == peers
    assert "cluster_partition_handling = pause_minority\n" in CONFIGURATION
    target = "quorum_queue.continuous_membership_reconciliation.target_group_size"
    assert f"{target} = {len(NODES)}\n" in CONFIGURATION


def test_the_secret_of_the_nodes_is_random_and_has_no_default(
    services: dict[str, Service], env_file: Path
) -> None:
    known = read_env(env_file)
    for node in NODES:
        environment = services[node]["environment"]
        assert environment["RABBITMQ_ERLANG_COOKIE"] == known["ERLANG_COOKIE"]
        assert environment["RABBITMQ_DEFAULT_PASS"] == known[broker_variable("admin")]
    text = CLUSTER_FILE.read_text()
    assert set(re.findall(r"\$\{(\w+):\?", text)) == {"ERLANG_COOKIE"}
    assert set(re.findall(r"\$\{(\w+):-", text)) & set(SECRETS) == set()
    assert "//" not in text, "no URL, so no password in one"
