"""What the sandbox reads from the environment."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class SandboxSettings(BaseSettings):
    """Every knob and bound of the sandbox; `MURMURATION_<NAME>` in the environment."""

    model_config = SettingsConfigDict(env_prefix="MURMURATION_", extra="ignore")

    http_host: str = "127.0.0.1"
    http_port: int = Field(default=8090, ge=1, le=65535)
    smtp_port: int = Field(default=8025, ge=1, le=65535)
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    admin_token: SecretStr | None = Field(default=None, description="None or empty: PUT /faults is closed")

    sandbox_ledger: Path = Path("sandbox.sqlite3")
    sandbox_slow_seconds: float = Field(default=2, ge=0, le=60, description="how late tok_slow answers")
    sandbox_slow_limit: int = Field(default=500, ge=1, description="late answers waiting at once")
    sandbox_body_limit_bytes: int = Field(default=64 * 1024, ge=1024)
    sandbox_connection_limit: int = Field(default=1000, ge=1, description="HTTP connections at once")
    sandbox_smtp_connection_limit: int = Field(default=100, ge=1)
    sandbox_smtp_timeout_seconds: float = Field(default=300, gt=0, description="an idle SMTP session ends")
    sandbox_keep_alive_seconds: int = Field(default=75, ge=1, description="an idle HTTP connection ends")
    sandbox_stop_seconds: int = Field(default=5, ge=1, description="for requests in flight at SIGTERM")
    sandbox_sink_retention: int = Field(default=10_000, ge=1, description="mails kept, and pushes kept")
