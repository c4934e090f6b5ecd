"""The RabbitMQ and PostgreSQL that tests run against: private ones, or containers with INFRA=docker.

One pair serves a whole session. A test isolates itself by a database and a vhost of its own.
"""

import asyncio
import json
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest
from aiohttp import web
from psycopg import sql

from compose.containers.env import FOLDER
from compose.local.process_table import ProcessIdentity, identify
from compose.local.provision import ADMIN_USER, Blueprint
from compose.local.rabbitmq import speaks_amqp
from compose.local.rig import LocalRig
from compose.waiting import wait_until_ready
from events.runtime.definition import CHOSEN_VARIABLE
from events.storage.migrations import upgrade
from tests.runtime.standin_system import standin_blueprint
from tests.tools import image_is_here

POSTGRES_IMAGE = "postgres:17"
RABBITMQ_IMAGE = "rabbitmq:4-management"
RABBITMQ_PORT = 5672
CONFIGURATION_INSIDE = "/etc/rabbitmq/conf.d/20-murmuration.conf"
# Deleting what a whole session wrote takes a busy engine longer than the minute that its client waits.
ENGINE_TIMEOUT_SECONDS = 300
CONTAINER_START_SECONDS = 120
IMPORT_TIMEOUT_SECONDS = 60
MAX_CONNECTIONS = 200
# Making a vhost takes a call of the command line tool, which takes longer than making several.
VHOSTS_AT_ONCE = 8


class Servers(ABC):
    """A database server and a broker, with administrators' URLs."""

    postgres_url: str
    rabbitmq_url: str

    def __init__(self) -> None:
        self._templates: dict[str, str] = {}
        self._spare_vhosts: list[str] = []
        self._template_lock = asyncio.Lock()

    async def new_database(self, package: str | None = None) -> str:
        """The URL of a fresh database; with the newest schema of `package` (such as `order_svc`) if given."""
        if package is None:
            return await self._create_database()
        async with self._template_lock:
            if package not in self._templates:
                url = await self._create_database()
                await asyncio.to_thread(upgrade, url, package)
                self._templates[package] = url
        return await self._create_database(template=_database_of(self._templates[package]))

    def new_vhost(self) -> str:
        """The URL of a fresh, empty vhost, for the administrator."""
        if not self._spare_vhosts:
            self._spare_vhosts = [f"test-{uuid4().hex}" for _ in range(VHOSTS_AT_ONCE)]
            user = urlsplit(self.rabbitmq_url).username
            everything = {"user": user, "configure": ".*", "write": ".*", "read": ".*"}
            self.import_definitions(
                {
                    "vhosts": [{"name": name} for name in self._spare_vhosts],
                    "permissions": [{"vhost": name, **everything} for name in self._spare_vhosts],
                }
            )
        return urlunsplit(urlsplit(self.rabbitmq_url)._replace(path=f"/{self._spare_vhosts.pop()}"))

    @abstractmethod
    def import_definitions(self, definitions: dict[str, Any]) -> None:
        """Adds users, vhosts, permissions, queues and so on to the broker (RabbitMQ's definitions format)."""

    async def _create_database(self, template: str | None = None) -> str:
        name = f"test_{uuid4().hex}"
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        async with await psycopg.AsyncConnection.connect(self.postgres_url, autocommit=True) as connection:
            await connection.execute(statement)
        return urlunsplit(urlsplit(self.postgres_url)._replace(path=f"/{name}"))


class PrivateServers(Servers):
    """Servers of this session's own rig."""

    def __init__(self, rig: LocalRig) -> None:
        super().__init__()
        self.rig = rig
        self.postgres_url = rig.addresses.postgres_admin_url
        self.rabbitmq_url = rig.addresses.broker_url(ADMIN_USER)

    def import_definitions(self, definitions: dict[str, Any]) -> None:
        self.rig.import_definitions(definitions)


class ContainerServers(Servers):
    """Servers in containers, where a Docker engine runs."""

    def __init__(self, postgres_url: str, rabbitmq_url: str, rabbitmq: Any) -> None:
        super().__init__()
        self.postgres_url = postgres_url
        self.rabbitmq_url = rabbitmq_url
        self._rabbitmq = rabbitmq

    def import_definitions(self, definitions: dict[str, Any]) -> None:
        # Through a file that RabbitMQ's own user may read: its command line tool does not read a pipe.
        # Now and then it never answers, as outside containers: it is asked again.
        once = f"timeout {IMPORT_TIMEOUT_SECONDS} rabbitmqctl --quiet import_definitions $f"
        script = f'umask 022; f=$(mktemp -u); printf %s "$1" >$f; {once} || {once}'
        answer = self._rabbitmq.exec(["sh", "-c", script, "sh", json.dumps(definitions)])
        assert answer.exit_code == 0, answer.output


@contextmanager
def running_servers() -> Iterator[Servers]:
    """The session's servers, as INFRA says."""
    infrastructure = os.environ.get("INFRA", "local")
    if infrastructure == "docker":
        with container_servers() as servers:
            yield servers
    elif infrastructure == "local":
        with private_servers() as servers:
            yield servers
    else:
        raise ValueError(f"INFRA is local or docker, not {infrastructure}")


@contextmanager
def private_servers() -> Iterator[PrivateServers]:
    """A rig that runs servers alone, in a folder that is deleted afterwards."""
    with rig_folder() as folder:
        # URLs of servers of one's own are meant for running the system, not for tests to fill up.
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("MURMURATION_")
        }
        rig = LocalRig(folder, blueprint=standin_blueprint(), environment=environment)
        try:
            rig.up_servers()
            yield PrivateServers(rig)
        finally:
            rig.destroy()


@contextmanager
def container_servers() -> Iterator[ContainerServers]:
    """The same from public images."""
    # Imported here because importing them looks for a Docker engine's settings.
    from docker.errors import DockerException  # type: ignore[import-untyped]
    from testcontainers.community.postgres import PostgresContainer
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer

    # It removes what a killed session leaves; its image is not on a machine without a way to the registry.
    if not image_is_here(testcontainers_config.ryuk_image):
        testcontainers_config.ryuk_disabled = True
    patient = {"timeout": ENGINE_TIMEOUT_SECONDS}
    with ExitStack() as stack:
        try:
            postgres = PostgresContainer(POSTGRES_IMAGE, driver=None, docker_client_kw=patient)
        except DockerException as error:
            pytest.exit(f"INFRA=docker needs a Docker engine that answers: {error}", returncode=1)
        postgres.with_command(f"-c max_connections={MAX_CONNECTIONS}")
        stack.enter_context(postgres)
        rabbitmq = (
            DockerContainer(RABBITMQ_IMAGE, docker_client_kw=patient)
            .with_exposed_ports(RABBITMQ_PORT)
            .with_env("RABBITMQ_DEFAULT_USER", ADMIN_USER)
            .with_env("RABBITMQ_DEFAULT_PASS", ADMIN_USER)
            .with_volume_mapping(str(FOLDER / "rabbitmq.conf"), CONFIGURATION_INSIDE, "ro")
        )
        stack.enter_context(rabbitmq)
        host, port = rabbitmq.get_container_host_ip(), rabbitmq.get_exposed_port(RABBITMQ_PORT)
        problem = wait_until_ready(
            lambda: None if speaks_amqp(host, port) else "it does not answer", CONTAINER_START_SECONDS
        )
        assert problem is None, f"the container's RabbitMQ: {problem}"
        address = f"{host}:{port}"
        yield ContainerServers(
            postgres.get_connection_url(), f"amqp://{ADMIN_USER}:{ADMIN_USER}@{address}/", rabbitmq
        )


@contextmanager
def rig_on(servers: Servers, blueprint: Blueprint | None = None, **environment: str) -> Iterator[LocalRig]:
    """A rig, not up, that uses these servers: its databases are deleted afterwards.

    Databases and roles have the names of the blueprint's processes: one rig of a kind at a time.
    """
    urls = {
        "MURMURATION_POSTGRES_URL": servers.postgres_url,
        "MURMURATION_RABBITMQ_URL": servers.new_vhost(),
    }
    with rig_folder() as folder:
        rig = LocalRig(
            folder, blueprint=blueprint, environment={**clean_environment(), **urls, **environment}
        )
        try:
            yield rig
        finally:
            rig.destroy()
            _drop_databases(servers.postgres_url, rig.blueprint)


def clean_environment() -> dict[str, str]:
    """Ours without settings of this project, but for which services it consists of."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MURMURATION_") or name == CHOSEN_VARIABLE
    }


@contextmanager
def running_rig(settings: Mapping[str, str]) -> Iterator[LocalRig]:
    """Inside, a whole system is up, in an environment of these settings; afterwards its data is gone."""
    with rig_folder() as folder:
        rig = LocalRig(folder, environment={**clean_environment(), **settings})
        rig.up()
        yield rig
        rig.down()


@contextmanager
def rig_folder() -> Iterator[Path]:
    """A folder for a rig, named after this process: a later session ends what a killed one left running."""
    base = Path(tempfile.gettempdir()) / f"murmuration-tests-{os.geteuid()}"
    base.mkdir(mode=0o711, exist_ok=True)
    if base.lstat().st_uid != os.geteuid():
        raise PermissionError(f"{base} belongs to another user")
    for abandoned in base.iterdir():
        pid, _, started = abandoned.name.split("~")[0].partition("@")
        if not ProcessIdentity(int(pid), started).is_running():
            # Somebody else may be ending it just now.
            with suppress(FileNotFoundError):
                LocalRig(abandoned, blueprint=standin_blueprint()).destroy()
    me = identify(os.getpid())
    assert me is not None
    folder = base / f"{me.pid}@{me.started}~{uuid4().hex[:8]}"
    folder.mkdir(mode=0o711)
    try:
        yield folder
    finally:
        LocalRig(folder, blueprint=standin_blueprint()).destroy()


def _drop_databases(admin_url: str, blueprint: Blueprint) -> None:
    with psycopg.connect(admin_url, autocommit=True) as connection:
        for spec in blueprint.processes:
            if spec.has_database:
                name = sql.Identifier(spec.name)
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
                connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(name))


def _database_of(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    """Somebody else's HTTP server as a test has it, on a free port; its URL."""
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
