"""The containers as a rig: what the demo and the check ask of one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from compose.containers.env import broker_variable, database_variable, read_env
from compose.containers.stack import Container, Stack
from compose.local.errors import RigError
from compose.local.interruptions import uninterrupted
from compose.local.ports import LOOPBACK
from compose.local.processes import PROCESSES
from compose.local.rig import ComponentStatus
from compose.local.servers import POSTGRES, RABBITMQ

HTTP_PORT = 8000
INNER_PORTS = {POSTGRES: 5432, RABBITMQ: 5672}
SERVERS = tuple(INNER_PORTS)
NAMES = (*SERVERS, *(spec.name for spec in PROCESSES))


@dataclass(frozen=True, slots=True)
class ContainerAddresses:
    """Where the containers are reached from this machine. Methods raise RigError for one that is missing."""

    containers: Mapping[str, Container]
    secrets: Mapping[str, str]

    @property
    def database_passwords(self) -> dict[str, str]:
        """By role, which is also the name of the database."""
        names = [spec.name for spec in PROCESSES if spec.has_database]
        return {name: self._secret(database_variable(name)) for name in names}

    @property
    def admin_token(self) -> str:
        return self._secret("ADMIN_TOKEN")

    def database_url(self, name: str) -> str:
        """A database, for the role of its name."""
        password = self._secret(database_variable(name))
        return f"postgresql://{name}:{password}@{LOOPBACK}:{self._port(POSTGRES)}/{name}"

    def broker_url(self, user: str) -> str:
        """The broker, for this user."""
        return f"amqp://{user}:{self._secret(broker_variable(user))}@{LOOPBACK}:{self._port(RABBITMQ)}/"

    def http(self, name: str) -> str:
        """The base URL of a process."""
        return f"http://{LOOPBACK}:{self._port(name)}"

    def _port(self, name: str) -> int:
        container = self.containers.get(name)
        if container is None:
            raise RigError(f"there is no container of {name}: make compose-up starts it")
        return container.ports[INNER_PORTS.get(name, HTTP_PORT)]

    def _secret(self, variable: str) -> str:
        if not self.secrets.get(variable):
            raise RigError(f"compose/.env has no {variable}: python3 -m compose.containers.env adds it")
        return self.secrets[variable]


class ContainerRig:
    """The system in containers. Methods raise RigError for what a person can act on."""

    def __init__(self, stack: Stack | None = None) -> None:
        self.stack = stack or Stack()

    @property
    def addresses(self) -> ContainerAddresses:
        """Every URL and password, as of now."""
        return ContainerAddresses(self._containers(), read_env(self.stack.env_file))

    def status(self) -> list[ComponentStatus]:
        """How every server and process is, servers first."""
        found = self._containers()
        return [_status_of(name, found.get(name)) for name in NAMES]

    @contextmanager
    def running(self) -> Iterator["ContainerRig"]:
        """The system is up inside, and afterwards as it was before."""
        ran_before = any(container.runs for container in self._containers().values())
        try:
            self.stack.up()
            yield self
        finally:
            if not ran_before:
                with uninterrupted():
                    self.stack.down()

    def pause(self, name: str) -> None:
        """Freezes it: it keeps its connections and answers nothing."""
        self.stack.pause(name)

    def resume(self, name: str) -> None:
        """Lets a frozen one go on; one that is not frozen goes on anyway."""
        if (found := self._containers().get(name)) is not None and found.status == "paused":
            self.stack.resume(name)

    def _containers(self) -> dict[str, Container]:
        return {container.service: container for container in self.stack.containers()}


def _status_of(name: str, container: Container | None) -> ComponentStatus:
    if container is None or not container.runs:
        died = container is not None and container.exit_code != 0
        return ComponentStatus(name, "died" if died else "stopped", None, "")
    address = f"{LOOPBACK}:{container.ports[INNER_PORTS.get(name, HTTP_PORT)]}"
    if container.status == "running" and container.health == "healthy":
        return ComponentStatus(name, "ready", container.pid, address)
    problem = "it is frozen" if container.status == "paused" else container.problem or container.health
    return ComponentStatus(name, "not ready", container.pid, address, problem)
