"""The private servers as components of the supervisor: the database, the broker, Erlang's name service."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compose.local.postgres import PrivatePostgres
from compose.local.process_table import Launch
from compose.local.rabbitmq import PrivateRabbit

POSTGRES = "postgres"
RABBITMQ = "rabbitmq"
NAME_SERVICE = "epmd"
SERVERS = (POSTGRES, RABBITMQ, NAME_SERVICE)


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
