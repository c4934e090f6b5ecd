"""The containers as a rig: what the demo, the check and the drills ask of one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from compose.containers import engine
from compose.containers.engine import Container
from compose.containers.env import TOKEN, broker_variable, database_variable, read_env
from compose.containers.stack import Stack
from compose.local.commands import RigError, uninterrupted
from compose.local.components import POSTGRES, RABBITMQ, what_readyz_lacks
from compose.local.ports import LOOPBACK
from compose.local.rabbitmq import speaks_amqp
from compose.local.supervisor import ComponentStatus
from compose.system import PROCESSES
from compose.waiting import wait_until_ready

HTTP_PORT = 8000
POSTGRES_PORT = 5432
AMQP_PORT = 5672
SERVERS = (POSTGRES, RABBITMQ)
PROCESS_NAMES = tuple(spec.name for spec in PROCESSES)
NAMES = (*SERVERS, *PROCESS_NAMES)
# As compose.yaml names it.
POSTGRES_ADMIN = "murmuration"
# Whose role and database it takes to see whether PostgreSQL answers.
ASKING = "order"
READY_SECONDS = 90.0
CONNECT_SECONDS = 3


def is_broker(service: str) -> bool:
    """Whether it is a node of the broker: `rabbitmq`, and in a cluster `rabbitmq-2` and so on."""
    return service.partition("-")[0] == RABBITMQ


def is_part(service: str) -> bool:
    """Whether it is a part of the system; what sets it up, or looks at it, is none."""
    return service == POSTGRES or is_broker(service) or service in PROCESS_NAMES


@dataclass(frozen=True, slots=True)
class ContainerAddresses:
    """Where the containers are reached from this machine. Methods raise RigError for one that is missing."""

    containers: Sequence[Container]
    secrets: Mapping[str, str]

    @property
    def database_passwords(self) -> dict[str, str]:
        """By role, which is also the name of the database."""
        names = [spec.name for spec in PROCESSES if spec.has_database]
        return {name: self._secret(database_variable(name)) for name in names}

    @property
    def admin_token(self) -> str:
        return self._secret("ADMIN_TOKEN")

    @property
    def token(self) -> str:
        return self._secret(TOKEN)

    def database_url(self, name: str) -> str:
        """A database, for the role of its name."""
        password = self._secret(database_variable(name))
        port = self._port(POSTGRES, POSTGRES_PORT, lambda service: service == POSTGRES)
        return f"postgresql://{name}:{password}@{LOOPBACK}:{port}/{name}"

    @property
    def postgres_admin_url(self) -> str:
        """PostgreSQL, for its administrator."""
        port = self._port(POSTGRES, POSTGRES_PORT, lambda service: service == POSTGRES)
        return f"postgresql://{POSTGRES_ADMIN}:{self._secret('POSTGRES_PASSWORD')}@{LOOPBACK}:{port}/postgres"

    def broker_url(self, user: str) -> str:
        """The broker, for this user; of a cluster, a node that runs."""
        password = self._secret(broker_variable(user))
        return f"amqp://{user}:{password}@{LOOPBACK}:{self._port(RABBITMQ, AMQP_PORT, is_broker)}/"

    def http(self, name: str) -> str:
        """The base URL of a process; of several replicas, one that runs."""
        return f"http://{LOOPBACK}:{self._port(name, HTTP_PORT, lambda service: service == name)}"

    def _port(self, name: str, inside: int, wanted: Callable[[str], bool]) -> int:
        found = [
            container
            for container in self.containers
            if wanted(container.service) and inside in container.ports
        ]
        if not found:
            raise RigError(f"there is no container of {name}: make compose-up starts it")
        return next((one for one in found if one.runs), found[0]).ports[inside]

    def _secret(self, variable: str) -> str:
        if not self.secrets.get(variable):
            raise RigError(f"compose/.env has no {variable}: python3 -m compose.containers.env adds it")
        return self.secrets[variable]


class ContainerRig:
    """The system in containers. Methods raise RigError for what a person can act on.

    A container is known by the name of its service; the second replica of `order` is `order-2`.
    """

    def __init__(self, stack: Stack | None = None) -> None:
        self.stack = stack or Stack()

    @property
    def addresses(self) -> ContainerAddresses:
        """Every URL and password, as of now."""
        return ContainerAddresses(self._parts(), read_env(self.stack.env_file))

    def status(self) -> list[ComponentStatus]:
        """How every server and process is, servers first: each is asked itself, now."""
        where = self.addresses
        found = {container.name: container for container in where.containers}
        names = [*NAMES, *(name for name in found if name not in NAMES)]
        with ThreadPoolExecutor(len(names)) as threads:
            return list(threads.map(lambda name: _status_of(name, found.get(name), where), names))

    @contextmanager
    def running(self) -> Iterator["ContainerRig"]:
        """The system is up inside, and afterwards as it was before."""
        ran_before = any(container.runs for container in self._parts())
        try:
            self.stack.up()
            yield self
        finally:
            if not ran_before:
                with uninterrupted():
                    self.stack.down()

    # -- one server or process -----------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Starts it, unless it runs, and waits until it does its work."""
        self._start([self._container(name)])

    def stop(self, name: str) -> None:
        """Asks it to end; the engine kills it when it does not within its grace period."""
        engine.stop(self._container(name))

    def kill(self, name: str) -> None:
        """Ends it as kill -9 does, and it stays dead."""
        engine.kill(self._container(name))

    def pause(self, name: str) -> None:
        """Freezes it: it keeps its connections and answers nothing."""
        engine.pause(self._container(name))

    def resume(self, name: str) -> None:
        """Lets a frozen one go on; one that is not frozen goes on anyway."""
        if (container := self._container(name)).status == "paused":
            engine.resume(container)

    def rabbitmqctl(self, *arguments: str) -> str:
        """Runs RabbitMQ's command line tool beside the broker (of a cluster: its first node)."""
        return engine.execute(self._container(RABBITMQ), "rabbitmqctl", *arguments)

    def pid(self, name: str) -> int | None:
        """Its process id; None when it does not run."""
        container = self._container(name)
        return container.pid if container.runs else None

    def disconnect(self, name: str, network: str) -> None:
        """Takes it off a network: from now on everything between it and who is there is lost, silently."""
        engine.disconnect(self._container(name), self.stack.network(network))

    def connect(self, name: str, network: str) -> None:
        """Puts it back on a network, unless it is on it."""
        container, full_name = self._container(name), self.stack.network(network)
        if full_name not in container.networks:
            engine.connect(container, full_name)

    # -- the whole system ----------------------------------------------------------------------------

    def stop_all(self) -> None:
        """Stops everything in order; the containers stay."""
        self.stack.stop()

    def start_all(self) -> None:
        """Starts what does not run, servers first, has go on what is frozen, and waits until all is ready."""
        for are_processes in False, True:
            parts = [part for part in self._parts() if (part.service in PROCESS_NAMES) is are_processes]
            self._start(parts)

    def _start(self, containers: Sequence[Container]) -> None:
        """At the same time."""
        with ThreadPoolExecutor(max(1, len(containers))) as threads:
            list(threads.map(_set_going, containers))
            # Only now: the port of one among several replicas may be another one than before.
            where = self.addresses
            list(threads.map(lambda container: _wait_until_ready(container.name, where), containers))

    def _container(self, name: str) -> Container:
        found = {container.name: container for container in self._parts()}
        if name not in found:
            raise RigError(f"there is no container of {name}: make compose-up starts it")
        return found[name]

    def _parts(self) -> list[Container]:
        return [container for container in self.stack.containers() if is_part(container.service)]


def _set_going(container: Container) -> None:
    if container.status == "paused":
        engine.resume(container)
    elif not container.runs:
        engine.start(container)


def _wait_until_ready(name: str, where: ContainerAddresses) -> None:
    container = next(container for container in where.containers if container.name == name)
    problem = wait_until_ready(lambda: _problem_of(container, where), READY_SECONDS)
    if problem is not None:
        details = engine.last_words(container)
        raise RigError(f"{name} is not ready after {READY_SECONDS:.0f} s: {problem}", details=details)


def _status_of(name: str, container: Container | None, where: ContainerAddresses) -> ComponentStatus:
    if container is None or not container.runs:
        died = container is not None and container.exit_code != 0
        return ComponentStatus(name, "died" if died else "stopped", None, "")
    address = f"{LOOPBACK}:{_port_of(container)}"
    problem = "it is frozen" if container.status == "paused" else _problem_of(container, where)
    if problem is None:
        return ComponentStatus(name, "ready", container.pid, address)
    return ComponentStatus(name, "not ready", container.pid, address, problem)


def _problem_of(container: Container, where: ContainerAddresses) -> str | None:
    """What a running server or process lacks to do its work, asked now over its published port."""
    port = _port_of(container)
    if container.service in PROCESS_NAMES:
        return what_readyz_lacks(port)
    if is_broker(container.service):
        return None if speaks_amqp(LOOPBACK, port) else "it does not speak AMQP yet"
    try:
        psycopg.connect(where.database_url(ASKING), connect_timeout=CONNECT_SECONDS).close()
    except psycopg.Error:
        return "it does not answer queries yet"
    return None


def _port_of(container: Container) -> int:
    inside = {POSTGRES: POSTGRES_PORT, RABBITMQ: AMQP_PORT}.get(
        container.service.partition("-")[0], HTTP_PORT
    )
    if inside not in container.ports:
        raise RigError(f"{container.name} publishes no port {inside}")
    return container.ports[inside]


# A cluster as a rig for the demo and the check: what they do to a process, they mean all its replicas.


class ReplicaRig(ContainerRig):
    """The system in containers, several of each. Methods raise RigError for what a person can act on."""

    def pause(self, name: str) -> None:
        """Freezes every replica."""
        for container in self._replicas(name):
            engine.pause(container)

    def resume(self, name: str) -> None:
        """Lets go on every replica that is frozen."""
        for container in self._replicas(name):
            if container.status == "paused":
                engine.resume(container)

    def _replicas(self, name: str) -> list[Container]:
        return [container for container in self._parts() if container.service == name]
