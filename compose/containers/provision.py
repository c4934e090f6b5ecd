"""`python -m compose.containers.provision`: tells the servers in the containers what the code wants of them.

A database and a role per process, the newest schema in each, and what RabbitMQ has to know. It runs once
before the services, at every `docker compose up`; where all is there already, it changes nothing.

Of a cluster it waits first until all nodes are in it, and afterwards until every queue is on all of them.
"""

import base64
import http.client
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from compose.containers.env import broker_variable, database_variable
from compose.local.commands import RigError
from compose.local.provision import ADMIN_USER, Definitions, migrate, provision_databases
from compose.system import murmuration

POSTGRES_VARIABLE = "POSTGRES_URL"
MANAGEMENT_VARIABLE = "RABBITMQ_MANAGEMENT_URL"
# The names of a cluster's nodes, between blanks; not set for a broker on its own.
NODES_VARIABLE = "RABBITMQ_NODES"
# The folder that Prometheus reads its configuration from; not set where nobody runs one.
MONITORING_VARIABLE = "MONITORING_DIR"
TIMEOUT_SECONDS = 60
MAX_ANSWER_CHARACTERS = 10_000
PAUSE_SECONDS = 1.0
REPLICATED = ("quorum", "stream")
KHEPRI = "khepri_db"
TOPIC_PERMISSIONS = "topic_permissions"
# The broker listens before its management does, and a stream may have yet to start when it is bound.
IMPORT_ATTEMPTS = 30
CLUSTER_ATTEMPTS = 90
# RabbitMQ makes a queue's missing members one queue at a time, and looks for them now and then.
REPLICATION_ATTEMPTS = 90


@dataclass(frozen=True, slots=True)
class Management:
    """A node's management, by http or https, asked as the broker's administrator."""

    url: str
    password: str

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """The decoded answer; None where there is none. Raises RigError when it is not a good one."""
        address = urlsplit(self.url)
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        connection = kind(address.hostname or "", address.port, timeout=TIMEOUT_SECONDS)
        credentials = base64.b64encode(f"{ADMIN_USER}:{self.password}".encode()).decode()
        headers = {"Content-Type": "application/json", "Authorization": f"Basic {credentials}"}
        sent = None if body is None else json.dumps(body)
        try:
            connection.request(method, path, sent, headers)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise RigError(repr(error)) from error
        finally:
            connection.close()
        if answer.status >= 300:
            raise RigError(f"{answer.status} {text[:MAX_ANSWER_CHARACTERS]}")
        return json.loads(text) if answer.status == http.client.OK else None


def provision(environment: Mapping[str, str]) -> None:
    """Does all of it. Raises RigError when a server refuses, KeyError for a variable that is not set."""
    blueprint = murmuration()
    databases = [spec.name for spec in blueprint.with_database]
    database_passwords = {name: environment[database_variable(name)] for name in databases}
    broker_passwords = {user: environment[broker_variable(user)] for user in blueprint.broker_users}
    management = Management(environment[MANAGEMENT_VARIABLE], broker_passwords[ADMIN_USER])
    nodes = environment.get(NODES_VARIABLE, "").split()
    provision_databases(environment[POSTGRES_VARIABLE], database_passwords)
    migrate(blueprint, environment[POSTGRES_VARIABLE], database_passwords)
    if nodes:
        wait_for_cluster(management, nodes)
        keep_metadata_by_consensus(management)
    teach_broker(management, blueprint.definitions(broker_passwords))
    if nodes:
        wait_for_replicas(management, nodes)
    if MONITORING_VARIABLE in environment:
        names = [spec.name for spec in blueprint.processes]
        write_config(Path(environment[MONITORING_VARIABLE]), databases, names)


def teach_broker(management: Management, definitions: Definitions, attempts: int = IMPORT_ATTEMPTS) -> None:
    """Has the broker import definitions. Raises RigError when it never does.

    The rights to an exchange only once it is there: RabbitMQ 4.0 with Khepri cannot make it afterwards.
    """
    first = {name: part for name, part in definitions.items() if name != TOPIC_PERMISSIONS}
    then = {TOPIC_PERMISSIONS: definitions.get(TOPIC_PERMISSIONS, [])}

    def problem(part: Definitions) -> str | None:
        management.ask("POST", "/api/definitions", part)
        return None

    for part in (first, then):
        _until_none(partial(problem, part), attempts, "RabbitMQ does not take its definitions")


def wait_for_cluster(management: Management, nodes: Sequence[str], attempts: int = CLUSTER_ATTEMPTS) -> None:
    """Wait until these nodes run as one cluster. Raises RigError naming those that do not come."""

    def problem() -> str | None:
        found = {node["name"]: node["running"] for node in management.ask("GET", "/api/nodes")}
        missing = [node for node in nodes if not found.get(node)]
        return f"there is no {', '.join(missing)}" if missing else None

    _until_none(problem, attempts, "RabbitMQ's nodes do not form a cluster")


def keep_metadata_by_consensus(management: Management, attempts: int = IMPORT_ATTEMPTS) -> None:
    """Have a cluster keep its users, exchanges and queues in Khepri, as RabbitMQ does by itself from 4.2 on.

    With Mnesia, the older store, a node whose network comes back while it is still finding out that it was
    gone stays at odds with the others until somebody restarts it. Raises RigError when RabbitMQ refuses.
    """

    def problem() -> str | None:
        flags = {flag["name"]: flag["state"] for flag in management.ask("GET", "/api/feature-flags")}
        if flags.get(KHEPRI) == "disabled":
            management.ask("PUT", f"/api/feature-flags/{KHEPRI}/enable", {})
            return "it is being enabled"
        return None if flags.get(KHEPRI) == "enabled" else f"it is {flags.get(KHEPRI, 'unknown')}"

    _until_none(problem, attempts, "RabbitMQ does not keep its metadata in Khepri")


def wait_for_replicas(
    management: Management, nodes: Sequence[str], attempts: int = REPLICATION_ATTEMPTS
) -> None:
    """Wait until every replicated queue has a member that lives on each of these nodes.

    Raises RigError for one that does not get them, which needs a person: a stream does not grow by itself.
    """

    def problem() -> str | None:
        lacking = {name: set(nodes) - online for name, online in members_online(management).items()}
        missing = [f"{name} is not on {', '.join(sorted(where))}" for name, where in lacking.items() if where]
        return "; ".join(missing) or None

    advice = "rabbitmq-queues add_member and rabbitmq-streams add_replica put a queue and a stream there"
    _until_none(problem, attempts, f"not everything is replicated ({advice})")


def members_online(management: Management) -> dict[str, set[str]]:
    """On which nodes each replicated queue has a member that lives. Raises RigError."""
    # Its statistics are half a minute old, and after a split a queue's former leader still adds to them.
    queues = management.ask("GET", "/api/queues?disable_stats=true")
    return {
        queue["name"]: set(queue.get("online", ())) for queue in queues if queue.get("type") in REPLICATED
    }


def _until_none(problem: Callable[[], str | None], attempts: int, what: str) -> None:
    """Look again and again until there is no problem. Raises RigError with the last one."""
    while True:
        try:
            found = problem()
        except RigError as error:
            found = str(error)
        if found is None:
            return
        attempts -= 1
        if attempts <= 0:
            raise RigError(f"{what}: {found}")
        time.sleep(PAUSE_SECONDS)


# `prometheus.yaml` and `alerts.yaml` are complete for the services of this repository, and are checked as
# they are. Where others are installed besides, `provision` writes both anew, with all of their names.
MONITORING_FOLDER = Path(__file__).resolve().parents[1] / "observability"
MONITORED_FILES = ("prometheus.yaml", "alerts.yaml")
_ASKED = re.compile(r"^( *- names: )\[order, .*\]$", re.MULTILINE)
_MISSED = re.compile(
    r'^( *)label_replace\(vector\(1\), "job", "order", "", ""\)\n(?: *or label_replace.*\n)+', re.MULTILINE
)


def config_for(text: str, watched: Sequence[str], asked: Sequence[str]) -> str:
    """One of these files, where `asked` are whom to ask for numbers, and `watched` those of them to miss."""
    names = ", ".join(asked)
    text = _ASKED.sub(lambda found: f"{found[1]}[{names}]", text)

    def expected(found: re.Match[str]) -> str:
        jobs = (f'label_replace(vector(1), "job", "{name}", "", "")\n' for name in watched)
        return found[1] + f"{found[1]}or ".join(jobs)

    return _MISSED.sub(expected, text)


def write_config(folder: Path, watched: Sequence[str], asked: Sequence[str]) -> None:
    """Write all of it into a folder. Raises OSError."""
    for name in MONITORED_FILES:
        (folder / name).write_text(config_for((MONITORING_FOLDER / name).read_text(), watched, asked))


def main() -> int:
    """Returns the exit code."""
    try:
        provision(os.environ)
    except RigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyError as error:
        sys.stderr.write(f"error: the variable {error.args[0]} is not set\n")
        return 2
    sys.stderr.write("databases, schemas, exchanges, queues and users are there\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
