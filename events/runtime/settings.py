"""What a process reads from its environment: where things are, and the bound of everything bounded."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from events.http.tokens import entries_in
from events.telemetry.log import LINES_PER_SECOND

ENV_PREFIX = "MURMURATION_"
# What brokers of our own get, too (max_message_size in rabbitmq.conf).
MAX_MESSAGE_BYTES = 1_048_576

SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def _decoded(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError("is not JSON") from None


def _usable(entries: str) -> str:
    entries_in(entries)
    return entries


# For a field whose variable holds JSON. (Left to itself, pydantic-settings would not say which variable.)
FromJson = BeforeValidator(_decoded)
HostAndPort = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+:[0-9]{1,5}$")]


class NotRead(ValueError):
    """A setting that is given in two ways, or by a file that cannot be read."""


class _Files(PydanticBaseSettingsSource):
    """What the file says that MURMURATION_<FIELD>_FILE names: so no secret has to be in the environment."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Raises NotRead."""
        variable = ENV_PREFIX + field_name.upper()
        path = os.environ.get(f"{variable}_FILE")
        # Of these the field says where a file is, and it is read by whoever uses it.
        if not path or f"{field_name}_file" in self.settings_cls.model_fields:
            return None, field_name, False
        if os.environ.get(variable):
            raise NotRead(f"{variable}: {variable}_FILE is set as well; leave out one of them")
        try:
            return Path(path).read_text().rstrip("\r\n"), field_name, False
        except (OSError, UnicodeDecodeError) as error:
            raise NotRead(f"{variable}_FILE: {getattr(error, 'strerror', None) or 'it is no text'}") from None

    def __call__(self) -> dict[str, Any]:
        found = {
            name: self.get_field_value(field, name)[0]
            for name, field in self.settings_cls.model_fields.items()
        }
        return {name: value for name, value in found.items() if value}


class FromEnvironment(BaseSettings):
    """Each field is the environment variable MURMURATION_<FIELD>, or the file MURMURATION_<FIELD>_FILE."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """As pydantic-settings documents it."""
        return init_settings, _Files(settings_cls), env_settings


class ProcessSettings(FromEnvironment):
    """Common to every process."""

    # Compose files can leave a variable empty, but not out.
    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, env_ignore_empty=True)

    broker_url: str
    # Further nodes of the same cluster: ["rabbitmq-2:5672"]. User, password and vhost are those of the URL.
    broker_nodes: Annotated[tuple[HostAndPort, ...], NoDecode, FromJson] = ()
    database_url: str
    http_host: str = "127.0.0.1"
    http_port: int
    # What the processes of the system show each other. A person's act takes a token with a name.
    admin_token: SecretStr | None = None
    # Signs for whom the tracker acts at a service; without one the key follows from the admin token. How much
    # earlier or later than here a signature may have been made: clocks differ.
    acting_secret: SecretStr | None = None
    acting_seconds: int = Field(default=30, gt=0, le=600)
    # Named tokens, by their hashes: entries with spaces between them, and a file that is read again when it
    # changes (events/http/tokens.py).
    tokens: Annotated[str, AfterValidator(_usable)] = ""
    tokens_file: Path | None = None
    # Who may read what holds no personal data: whoever gets here, or viewers.
    auth: Literal["open", "required"] = "required"
    # Who may place and cancel orders: whoever gets here (all are inside), or who has a client's token.
    orders: Literal["internal", "clients"] = "clients"
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    # Of the kind that comes once for every order; what is above it is counted. At DEBUG there is no bound.
    log_lines_per_second: int = Field(default=LINES_PER_SECOND, ge=0)

    max_request_bytes: int = Field(default=262_144, gt=0)
    # Of a body. What is larger is a dead letter at once, where the broker lets it pass. (A broker bounds what
    # it sends by number alone, so the bodies in memory can come to PREFETCH times this.)
    max_message_bytes: int = Field(default=MAX_MESSAGE_BYTES, gt=0, validate_default=True)
    max_open_requests: int = Field(default=2_000, gt=0)
    broker_heartbeat_seconds: int = Field(default=5, gt=0)
    database_pool_size: int = Field(default=8, ge=3)
    database_timeout_seconds: float = Field(default=3.0, gt=0)
    reconnect_seconds: float = Field(default=0.5, gt=0)
    presumed_dead_after_seconds: int = Field(default=15, gt=0)
    stop_grace_seconds: float = Field(default=8.0, gt=0)

    # Publishing the outbox: how many messages at once, and how many are kept in memory.
    relay_in_flight: int = Field(default=200, gt=0)
    relay_memory: int = Field(default=5_000, gt=0)
    relay_channels: int = Field(default=8, gt=0, le=64)
    forget_after_seconds: float = Field(default=0.5, gt=0)
    publish_timeout_seconds: float = Field(default=10.0, gt=0)
    broker_connect_timeout_seconds: float = Field(default=5.0, gt=0)
    sweep_seconds: float = Field(default=3.0, gt=0)
    # What the broker refuses is tried again after a pause, twice as long each time, up to the cap.
    refused_pause_seconds: float = Field(default=2.0, gt=0)
    refused_pause_cap_seconds: float = Field(default=300.0, gt=0)
    # How much longer it may take to stop once a loop has ended, before the process just ends.
    stop_margin_seconds: float = Field(default=5.0, gt=0)

    @field_validator("max_message_bytes")
    @classmethod
    def _above_requests(cls, given: int, known: ValidationInfo) -> int:
        """What a service accepts becomes a message."""
        if given < 2 * known.data.get("max_request_bytes", 0):
            raise ValueError(f"must be twice {ENV_PREFIX}MAX_REQUEST_BYTES: a request becomes a message")
        return given


class ServiceSettings(ProcessSettings):
    """What the five services read besides."""

    batch_size: int = Field(default=200, gt=0)
    # After a batch, so many times the time that it took pass before the next one, where there is always
    # work; less where there is seldom any. So batches of a busy service become larger and fewer. No rest is
    # longer than the second setting: one that waited for a lock or for the database says nothing of the next.
    rest_share: float = Field(default=3.0, ge=0, le=10)
    rest_cap_seconds: float = Field(default=0.05, ge=0, le=10)
    prefetch: int = Field(default=400, gt=0)
    max_pending_commands: int = Field(default=2_000, gt=0)
    command_timeout_seconds: float = Field(default=8.0, gt=0)
    max_outbox_backlog: int = Field(default=50_000, gt=0)
    # Of so many orders it is kept in memory why they wait: messages that failed, and locks.
    cause_memory: int = Field(default=2_000, gt=0)

    # New orders are refused while the oldest that is under way was placed longer ago than this, and more than
    # a few are; 0: never. Less than what the tracker gives a whole order, so that who is let in has a chance,
    # and more than most restarts take. Meanwhile one is let in so often, to see whether it goes again.
    intake_max_oldest_seconds: float = Field(default=20.0, ge=0)
    intake_few_orders: int = Field(default=50, ge=0)
    intake_probe_seconds: float = Field(default=5.0, gt=0)

    # For how long a service remembers which facts it has received, longer than any is on its way; 0: for
    # ever.
    inbox_retention_days: int = Field(default=30, ge=0, le=36_500)
    # For how long it remembers that an order was forgotten; 0: for ever, for so long it may be replayed.
    tombstone_retention_days: int = Field(default=0, ge=0, le=36_500)
    inbox_walk_seconds: float = Field(default=21_600.0, gt=0)

    heartbeat_seconds: float = Field(default=2.0, gt=0)

    # How long a transaction waits for a lock that another one holds. What meets one is set aside, and tried
    # again by itself after growing pauses; briefly each time, for everything else waits meanwhile.
    lock_wait_seconds: float = Field(default=0.5, ge=0.001)
    lock_probe_seconds: float = Field(default=0.02, ge=0.001)
    lock_pause_seconds: float = Field(default=0.1, gt=0)
    lock_pause_cap_seconds: float = Field(default=1.0, gt=0)
    # After that a message goes to the queue of those that come again later, for as often as it takes.
    lock_held_seconds: float = Field(default=10.0, gt=0)

    # How many are under way: what 60 a second need of a party that takes 2 s.
    call_concurrency: int = Field(default=128, gt=0)
    call_memory: int = Field(default=5_000, gt=0)
    # The pause after the n-th failed attempt is half to all of call_backoff_seconds * 2^n, up to the cap that
    # goes with a call's patience. After the last attempt and its pause, a call that may have been done is
    # looked up, and then given up. With these numbers:
    #             survives an outage of    given up, if refused at once    given up, if never answered
    #   step             56 s                  57 s to 114 s                    2.5 min to 3.5 min
    #   undo              2 min                2.5 min to 5 min                  3 min to 6 min
    #   message          17 min                 18 min to 36 min                20 min to 38 min
    call_timeout_seconds: float = Field(default=4.0, gt=0)
    # Of that, at most so much for a connection, with its name and its TLS: until then nothing was sent.
    call_connect_timeout_seconds: float = Field(default=2.0, gt=0)
    # No party is left alone for longer than this because its Retry-After says so.
    call_retry_after_cap_seconds: float = Field(default=30.0, ge=0)
    # Within one attempt, a 429 that says to come again this soon is waited for, and the request made anew.
    call_limit_wait_seconds: float = Field(default=2.5, ge=0)
    # Of an answer over HTTP, unpacked.
    call_answer_limit_bytes: int = Field(default=262_144, gt=0)
    # A kept connection that was idle for longer is not used again. A server that closes an idle one just then
    # takes the next request down with it, so this is less than what common servers (5 s) wait before they do.
    idle_connection_seconds: float = Field(default=4.0, gt=0)
    call_attempts: int = Field(default=25, gt=0)
    undo_attempts: int = Field(default=12, gt=0)
    message_attempts: int = Field(default=30, gt=0)
    # Of what is pending at an outside party, which also says so: asked for some 40 days, ever less often.
    pending_attempts: int = Field(default=1_000, gt=0)
    pending_backoff_cap_seconds: float = Field(default=3_600.0, gt=0)
    call_backoff_seconds: float = Field(default=0.3, gt=0)
    call_backoff_cap_seconds: float = Field(default=5.0, gt=0)
    undo_backoff_cap_seconds: float = Field(default=45.0, gt=0)
    message_backoff_cap_seconds: float = Field(default=90.0, gt=0)

    # A call that only another release of the service understands is left to its replicas for so long, before
    # this one looks at it again.
    left_to_others_seconds: float = Field(default=30.0, gt=0)

    # An outside party that failed so many requests in a row, for so long, is left alone for a while, but for
    # a few probes.
    circuit_opens_after: int = Field(default=10, gt=0)
    circuit_opens_after_seconds: float = Field(default=1.0, ge=0)
    circuit_open_seconds: float = Field(default=5.0, gt=0)
    circuit_probes: int = Field(default=3, gt=0)


def read_settings(kind: type[SettingsT]) -> SettingsT:
    """Read the environment; where it is wrong, say which variables to set and exit with code 2."""
    try:
        return kind()
    except ValidationError as error:
        for problem in error.errors():
            field, *inner = map(str, problem["loc"])
            what = ": ".join([ENV_PREFIX + field.upper(), *inner, problem["msg"]])
            print(f"configuration: {what}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None
    except NotRead as error:
        print(f"configuration: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None
