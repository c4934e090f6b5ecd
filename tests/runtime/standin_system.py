"""A small system of stand-ins, for tests of the rig itself."""

import hashlib
import os
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import aio_pika
import psycopg

from compose.local.provision import Blueprint
from compose.system import PROCESSES

PACKAGE = "tests.runtime.http_standin"
USERS = ("admin", *(spec.name for spec in PROCESSES if spec.has_database), "publisher")
QUEUES = {"standin": "quorum", "standin.stream": "stream"}


def standin_blueprint(prefix: str = "") -> Blueprint:
    """Processes named as the real ones, each a stand-in; a table per database and two queues.

    With a prefix to their names they get along with a real system on the same servers.
    """
    return Blueprint(
        processes=tuple(
            replace(spec, package=PACKAGE, name=f"{prefix if spec.has_database else ''}{spec.name}")
            for spec in PROCESSES
        ),
        broker_users=USERS,
        definitions=definitions,
        declare=declare,
        upgrade=upgrade,
    )


def definitions(passwords: Mapping[str, str]) -> dict[str, Any]:
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    return {
        "users": [
            {
                "name": name,
                "password_hash": password_hash(password),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": ["administrator"] if name == "admin" else [],
            }
            for name, password in passwords.items()
        ],
        "vhosts": [{"name": "/"}],
        "permissions": [{"user": name, "vhost": "/", **everything} for name in passwords],
        "queues": [
            {
                "name": name,
                "vhost": "/",
                "durable": True,
                "auto_delete": False,
                "arguments": {"x-queue-type": kind},
            }
            for name, kind in QUEUES.items()
        ],
    }


def password_hash(password: str) -> str:
    salt = os.urandom(4)
    return b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


async def declare(broker_url: str) -> None:
    async with await aio_pika.connect(broker_url) as connection, connection.channel() as channel:
        for name, kind in QUEUES.items():
            await channel.declare_queue(name, durable=True, arguments={"x-queue-type": kind})


def upgrade(database_url: str, package: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (word text, at timestamptz DEFAULT now())")
        connection.execute("INSERT INTO kept VALUES (%s)", [package])
