"""What a process reads from its environment: where things are, and the bound of everything bounded."""

import sys
from typing import Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

ENV_PREFIX = "MURMURATION_"

SettingsT = TypeVar("SettingsT", bound=BaseSettings)


class ProcessSettings(BaseSettings):
    """Common to every process. Each field is the environment variable MURMURATION_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True)

    broker_url: str
    database_url: str
    http_host: str = "127.0.0.1"
    http_port: int
    admin_token: SecretStr | None = None
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    max_request_bytes: int = Field(default=262_144, gt=0)
    database_pool_size: int = Field(default=8, ge=3)
    database_timeout_seconds: float = Field(default=3.0, gt=0)
    reconnect_seconds: float = Field(default=0.5, gt=0)
    presumed_dead_after_seconds: int = Field(default=15, gt=0)
    stop_grace_seconds: float = Field(default=8.0, gt=0)


class ServiceSettings(ProcessSettings):
    """What the five services read besides."""

    batch_size: int = Field(default=200, gt=0)
    prefetch: int = Field(default=400, gt=0)
    max_pending_commands: int = Field(default=2_000, gt=0)
    command_timeout_seconds: float = Field(default=8.0, gt=0)
    max_outbox_backlog: int = Field(default=50_000, gt=0)

    relay_in_flight: int = Field(default=200, gt=0)
    relay_memory: int = Field(default=5_000, gt=0)
    forget_after_seconds: float = Field(default=0.25, gt=0)
    publish_timeout_seconds: float = Field(default=10.0, gt=0)
    broker_heartbeat_seconds: int = Field(default=5, gt=0)
    broker_connect_timeout_seconds: float = Field(default=5.0, gt=0)
    sweep_seconds: float = Field(default=3.0, gt=0)
    heartbeat_seconds: float = Field(default=2.0, gt=0)

    call_concurrency: int = Field(default=64, gt=0)
    call_memory: int = Field(default=5_000, gt=0)
    call_timeout_seconds: float = Field(default=5.0, gt=0)
    call_attempts: int = Field(default=5, gt=0)
    call_backoff_seconds: float = Field(default=0.2, gt=0)
    call_backoff_cap_seconds: float = Field(default=10.0, gt=0)


def read_settings(kind: type[SettingsT]) -> SettingsT:
    """Read the environment; where it is wrong, say which variables to set and exit with code 2."""
    try:
        return kind()
    except ValidationError as error:
        for problem in error.errors():
            name = ENV_PREFIX + "_".join(map(str, problem["loc"])).upper()
            print(f"configuration: {name}: {problem['msg']}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None
