"""What the tracker reads from its environment."""

from pydantic import Field

from events.runtime.settings import ProcessSettings


class TrackerSettings(ProcessSettings):
    """Where things are, and the bounds of reading the stream."""

    batch_size: int = Field(default=1_000, gt=0)
    pause_seconds: float = Field(default=0.1, ge=0)
    prefetch: int = Field(default=3_000, gt=0, le=65_535)
    connect_timeout_seconds: float = Field(default=10.0, gt=0)
    # How long the stream may be silent when asked for a message that it must have.
    stream_answer_seconds: float = Field(default=10.0, gt=0)
    lag_probe_seconds: float = Field(default=5.0, gt=0)


class RebuildSettings(TrackerSettings):
    """The same for `rebuild`, which serves no HTTP."""

    http_port: int = 0
    rebuild_lock_timeout_seconds: float = Field(default=30.0, gt=0)
