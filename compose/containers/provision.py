"""`python -m compose.containers.provision`: tells the servers in the containers what the code wants of them.

A database and a role per process, the newest schema in each, and what RabbitMQ has to know. It runs once
before the services, at every `docker compose up`; where all is there already, it changes nothing.
"""

import base64
import http.client
import json
import os
import sys
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from compose.containers.env import BROKER_USERS, DATABASES, broker_variable, database_variable
from compose.local.blueprint import murmuration
from compose.local.errors import RigError
from compose.local.provision import migrate, provision_databases
from compose.local.rabbitmq import ADMIN_USER, Definitions

POSTGRES_VARIABLE = "POSTGRES_URL"
MANAGEMENT_VARIABLE = "RABBITMQ_MANAGEMENT_URL"
TIMEOUT_SECONDS = 60
# The broker listens before its management does, and a stream may have yet to start when it is bound.
IMPORT_ATTEMPTS = 30
IMPORT_PAUSE_SECONDS = 1.0


def provision(environment: Mapping[str, str]) -> None:
    """Does all of it. Raises RigError when a server refuses, KeyError for a variable that is not set."""
    database_passwords = {name: environment[database_variable(name)] for name in DATABASES}
    broker_passwords = {user: environment[broker_variable(user)] for user in BROKER_USERS}
    blueprint = murmuration()
    provision_databases(environment[POSTGRES_VARIABLE], database_passwords)
    migrate(blueprint, environment[POSTGRES_VARIABLE], database_passwords)
    definitions = blueprint.definitions(broker_passwords)
    teach_broker(environment[MANAGEMENT_VARIABLE], broker_passwords[ADMIN_USER], definitions)


def teach_broker(
    management_url: str, password: str, definitions: Definitions, attempts: int = IMPORT_ATTEMPTS
) -> None:
    """Has the broker import definitions, as its administrator. Raises RigError when it never does."""
    while (problem := _import(management_url, password, definitions)) is not None:
        attempts -= 1
        if attempts <= 0:
            raise RigError(f"RabbitMQ does not take its definitions: {problem}")
        time.sleep(IMPORT_PAUSE_SECONDS)


def _import(management_url: str, password: str, definitions: Definitions) -> str | None:
    """One attempt; returns what went wrong."""
    address = urlsplit(management_url)
    connection = http.client.HTTPConnection(
        address.hostname or "", address.port or 15672, timeout=TIMEOUT_SECONDS
    )
    credentials = base64.b64encode(f"{ADMIN_USER}:{password}".encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {credentials}"}
    try:
        connection.request("POST", "/api/definitions", json.dumps(definitions), headers)
        answer = connection.getresponse()
        body = answer.read(10_000).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    finally:
        connection.close()
    return None if answer.status < 300 else f"{answer.status} {body}"


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
