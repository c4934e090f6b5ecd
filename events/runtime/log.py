"""Structured logs: one line an event, JSON in containers, readable on a terminal."""

import logging
import sys
import time
from typing import Any

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def configure_logging(process: str, log_format: str, log_level: str) -> None:
    """Send every log line of this process, libraries' included, to stderr in one form."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(log_level)
    # These say the same thing at every attempt of an outage that `Outage` reports once.
    for chatty in ("aio_pika", "aiormq", "psycopg", "asyncio", "uvicorn.access", "faststream"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
    for quiet in ("uvicorn", "uvicorn.error", "alembic", "httpx"):
        logging.getLogger(quiet).setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(process=process)


class Outage:
    """Says once that something is away, and once that it is back."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._since: float | None = None

    @property
    def ongoing(self) -> bool:
        return self._since is not None

    def began(self, why: BaseException) -> None:
        """Note a failed attempt; only the first of an outage is logged."""
        if self._since is None:
            self._since = time.monotonic()
            log.warning("outage_began", of=self.what, why=str(why).strip() or type(why).__name__)

    def ended(self) -> None:
        """Note a success; logged only when it ends an outage."""
        if self._since is not None:
            seconds = round(time.monotonic() - self._since, 1)
            self._since = None
            log.info("outage_ended", of=self.what, after_seconds=seconds)
