"""What a rig runs, and what its servers have to know before: databases, roles and schemas, queues and users.

All of it is safe to repeat, and quick when all is there. It needs nothing that is not in the image, for that
does the same to the servers in containers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, LiteralString
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from compose.local.commands import RigError

SANDBOX = "sandbox"
# The process that runs all with a database at once, where there is one for each otherwise.
ALL_IN_ONE = "all-in-one"
ADMIN_USER = "admin"
CONNECT_TIMEOUT_SECONDS = 10

Definitions = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One kind of process. With a database it also has a user of the broker, both by its name."""

    name: str
    package: str
    has_database: bool = True
    gateways: tuple[str, ...] = ()
    """What it calls in the sandbox: provider, carrier, directory, push, smtp, provider_ledger."""
    asks: tuple[str, ...] = ()
    """The services whose HTTP addresses it gets, by their names."""


TOGETHER = ProcessSpec(ALL_IN_ONE, "compose.all_in_one")


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What a rig runs, and what its servers have to know before."""

    processes: tuple[ProcessSpec, ...]
    broker_users: tuple[str, ...]
    definitions: Callable[[Mapping[str, str]], Definitions]
    """RabbitMQ's definitions file, from the password of each of `broker_users`."""
    declare: Callable[[str], Awaitable[None]]
    """Declares exchanges, queues and bindings on a broker that is not ours, given its URL."""
    upgrade: Callable[[str, str], None]
    """Brings a database to the newest schema, given its URL and the package that owns it."""

    def spec(self, name: str) -> ProcessSpec:
        """The kind of process by this name. Raises KeyError."""
        return {spec.name: spec for spec in self.processes}[name]

    def started(self, *, all_in_one: bool) -> tuple[ProcessSpec, ...]:
        """What runs as a process of its own."""
        if not all_in_one:
            return self.processes
        return (TOGETHER, *(spec for spec in self.processes if not spec.has_database))

    @property
    def with_database(self) -> tuple[ProcessSpec, ...]:
        """The services and the tracker: what may also run together, in one process."""
        return tuple(spec for spec in self.processes if spec.has_database)


def url_of(admin_url: str, role: str, password: str) -> str:
    """The URL of the database that has the role's name, for that role, on the server of `admin_url`."""
    parts = urlsplit(admin_url)
    address = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{role}:{password}@{address}", path=f"/{role}"))


def provision_databases(admin_url: str, passwords: Mapping[str, str]) -> None:
    """Makes a role and a database for each name; nobody else may connect to that database.

    Raises RigError when the server refuses.
    """
    try:
        with psycopg.connect(
            admin_url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_SECONDS
        ) as connection:
            roles = _names(connection, "SELECT rolname FROM pg_roles")
            databases = _names(connection, "SELECT datname FROM pg_database")
            for name, password in passwords.items():
                _provide_role(connection, name, password, exists=name in roles)
                if name not in databases:
                    _create_database(connection, name)
    except psycopg.Error as error:
        raise RigError(f"cannot set up the databases on {_address(admin_url)}: {_one_line(error)}") from error


def migrate(blueprint: Blueprint, admin_url: str, passwords: Mapping[str, str]) -> None:
    """Brings every database to its newest schema.

    Raises RigError naming the database it could not bring there.
    """
    for name, password in passwords.items():
        try:
            blueprint.upgrade(url_of(admin_url, name, password), blueprint.spec(name).package)
        except Exception as error:
            raise RigError(f"cannot migrate the database {name}: {_one_line(error)}") from error


def declare(blueprint: Blueprint, broker_url: str) -> None:
    """Declares the topology on a broker that is not ours.

    Raises RigError when the broker refuses or cannot be reached.
    """

    async def declared() -> None:
        await blueprint.declare(broker_url)

    try:
        asyncio.run(declared())
    except Exception as error:
        raise RigError(f"cannot declare queues on {_address(broker_url)}: {_one_line(error)}") from error


def _provide_role(connection: psycopg.Connection, name: str, password: str, *, exists: bool) -> None:
    """The password is set each time: it is the one this rig remembers."""
    verb = sql.SQL("ALTER" if exists else "CREATE")
    connection.execute(
        sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(verb, sql.Identifier(name), sql.Literal(password))
    )


def _create_database(connection: psycopg.Connection, name: str) -> None:
    identifier = sql.Identifier(name)
    # Only a superuser may give a database away to a role that it is not a member of.
    connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(identifier))
    connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(identifier, identifier))
    connection.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(identifier))


def _names(connection: psycopg.Connection, query: LiteralString) -> set[str]:
    return {row[0] for row in connection.execute(query)}


def _address(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
