"""What a rig runs: private servers and the processes of the system, as components of the supervisor."""

import http.client
import json
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from compose.local.ports import LOOPBACK
from compose.local.postgres import PrivatePostgres
from compose.local.process_table import Launch
from compose.local.rabbitmq import PrivateRabbit
from compose.local.state import CHECKOUT

# The private servers as components of the supervisor: the database, the broker, Erlang's name service.

POSTGRES = "postgres"
RABBITMQ = "rabbitmq"
NAME_SERVICE = "epmd"
SERVERS = (POSTGRES, RABBITMQ, NAME_SERVICE)


class Component(Protocol):
    """One thing that runs: a server, or an instance of a service."""

    @property
    def name(self) -> str: ...

    @property
    def port(self) -> int:
        """The port it needs to itself."""

    @property
    def log(self) -> Path: ...

    @property
    def stop_signal(self) -> signal.Signals:
        """What asks it to end in an orderly way."""

    @property
    def ready_timeout_seconds(self) -> float: ...

    @property
    def stop_grace_seconds(self) -> float:
        """How long it may take to end in an orderly way before it is killed."""

    def prepare(self) -> Launch:
        """Makes ready what it needs and says how to start it. Raises RigError."""

    def not_ready(self) -> str | None:
        """Why it does not do its work yet; None when it does."""


@dataclass(frozen=True, slots=True)
class PostgresComponent:
    """The private PostgreSQL."""

    server: PrivatePostgres
    environment: Mapping[str, str]
    name: str = POSTGRES
    stop_signal: signal.Signals = signal.SIGINT  # "fast": ends sessions instead of waiting for them
    ready_timeout_seconds: float = 60.0
    stop_grace_seconds: float = 30.0

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def log(self) -> Path:
        return self.server.log

    def prepare(self) -> Launch:
        return self.server.prepare(self.environment)

    def not_ready(self) -> str | None:
        return None if self.server.is_answering() else "it does not answer queries yet"


@dataclass(frozen=True, slots=True)
class RabbitComponent:
    """The private RabbitMQ. Its name service must run first."""

    server: PrivateRabbit
    environment: Mapping[str, str]
    admin_password: str
    name: str = RABBITMQ
    stop_signal: signal.Signals = signal.SIGTERM
    ready_timeout_seconds: float = 120.0
    stop_grace_seconds: float = 30.0

    @property
    def port(self) -> int:
        return self.server.ports.amqp

    @property
    def log(self) -> Path:
        return self.server.log

    def prepare(self) -> Launch:
        return self.server.prepare(self.environment, self.admin_password)

    def not_ready(self) -> str | None:
        return None if self.server.is_answering() else "it does not speak AMQP yet"


@dataclass(frozen=True, slots=True)
class NameServiceComponent:
    """Erlang's name service, private too: it serves this broker and its command line tool alone."""

    server: PrivateRabbit
    environment: Mapping[str, str]
    name: str = NAME_SERVICE
    stop_signal: signal.Signals = signal.SIGTERM
    ready_timeout_seconds: float = 20.0
    stop_grace_seconds: float = 5.0

    @property
    def port(self) -> int:
        return self.server.ports.name_service

    @property
    def log(self) -> Path:
        return self.server.log.with_name("epmd.log")

    def prepare(self) -> Launch:
        return self.server.prepare_name_service(self.environment)

    def not_ready(self) -> str | None:
        return None if self.server.name_service_is_answering() else "it does not listen yet"


# The processes of the system: what each is called, which settings it needs, when it is ready.

PREFIX = "MURMURATION_"
SMTP_PORT = "sandbox-smtp"
READY_TIMEOUT_SECONDS = 60.0
STOP_GRACE_SECONDS = 15.0
ANSWER_TIMEOUT_SECONDS = 5.0
PROBLEM_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class ServiceProcess:
    """One instance of a process: a `Component` for the supervisor."""

    name: str
    package: str
    port: int
    environment: Mapping[str, str]
    log: Path
    other_ports: tuple[int, ...] = ()
    """Of a process that has several."""
    stop_signal: signal.Signals = signal.SIGTERM
    ready_timeout_seconds: float = READY_TIMEOUT_SECONDS
    stop_grace_seconds: float = STOP_GRACE_SECONDS

    def prepare(self) -> Launch:
        """Runs the package with the interpreter that runs us."""
        return Launch([sys.executable, "-m", self.package], self.environment, CHECKOUT, self.log)

    def not_ready(self) -> str | None:
        """Asks its /readyz; returns what it complains about."""
        answers = (what_readyz_lacks(port) for port in (self.port, *self.other_ports))
        return next((answer for answer in answers if answer is not None), None)


def what_readyz_lacks(port: int) -> str | None:
    """Asks the /readyz of a process on this machine; returns what it complains about."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=ANSWER_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        body = response.read(64 * 1024).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return "it does not answer HTTP yet"
    finally:
        connection.close()
    return None if response.status == http.client.OK else f"/readyz says {response.status}: {_gist(body)}"


def gateway_variables(gateways: tuple[str, ...], http_port: int, smtp_port: int) -> dict[str, str]:
    """Where a process finds the parts of the outside world it calls."""
    found = {}
    for gateway in gateways:
        if gateway == "smtp":
            found[f"{PREFIX}SMTP_URL"] = f"smtp://{LOOPBACK}:{smtp_port}"
        else:
            path = gateway.replace("_", "/")
            found[f"{PREFIX}{gateway.upper()}_URL"] = f"http://{LOOPBACK}:{http_port}/{path}"
    return found


def instance_name(name: str, instance: int) -> str:
    """`order` for the first instance, `order-2` for the second."""
    return name if instance == 1 else f"{name}-{instance}"


def _gist(body: str) -> str:
    try:
        problem = json.loads(body)
    except ValueError:
        return body[:PROBLEM_CHARACTERS].strip()
    detail = problem.get("detail") if isinstance(problem, dict) else None
    return str(detail or body)[:PROBLEM_CHARACTERS]
