"""Structured logs: one line an event, JSON in containers, readable on a terminal."""

import json
import logging
import sys
import time
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any

import structlog
from pydantic_core import to_json

from events.telemetry.redaction import in_words, redact_line, traceback_of

# In a process, of the kind that comes once for every order. It is meant for reading, not for load.
LINES_PER_SECOND = 50

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


def configure_logging(
    process: str, log_format: str, log_level: str, lines_per_second: int = LINES_PER_SECOND
) -> None:
    """Send every log line of this process, libraries' included, to stderr in one form."""
    story.configure(lines_per_second)
    stamped: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(lambda failed: traceback_of(failed[1])),
    ]
    written: list[Any] = [
        _time_first,
        redact_line,
        structlog.processors.JSONRenderer(_json)
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
    ]
    # Our own lines do not go through the standard library, which costs three times as much; others' do.
    structlog.configure(
        processors=[*stamped, *written],
        wrapper_class=structlog.make_filtering_bound_logger(log_level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=stamped,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *written],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(log_level)
    # These say the same thing at every attempt of an outage that `Outage` reports once.
    for chatty in (
        "aio_pika",
        "aiormq",
        "psycopg",
        "asyncio",
        "uvicorn.access",
        "faststream",
        "opentelemetry",
    ):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
    for quiet in ("uvicorn", "uvicorn.error", "alembic", "httpx"):
        logging.getLogger(quiet).setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(process=process)
    sys.excepthook = _log_uncaught


def _log_uncaught(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    log.critical("process_failed", exc_info=error)


def _json(line: MutableMapping[str, Any], **_: Any) -> str:
    try:
        return to_json(line, fallback=repr).decode()
    except ValueError:  # such as half of a surrogate pair
        return json.dumps(line, default=repr)


def _time_first(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """So that lines of several processes are in order once they are sorted as text."""
    first = {name: line[name] for name in ("timestamp", "level", "process", "event") if name in line}
    return first | dict(line)


class Story:
    """Keeps what happens to single orders from flooding the log: so many lines a second, then only a count.

    At DEBUG every line is kept.
    """

    def __init__(self, lines_per_second: int = LINES_PER_SECOND) -> None:
        self._lines_per_second = lines_per_second
        self._second = 0
        self._lines = 0
        self._left_out = 0

    def configure(self, lines_per_second: int) -> None:
        """Change the bound."""
        self._lines_per_second = lines_per_second

    def goes_on(self) -> bool:
        """Whether one more line may be logged now; ask before making it."""
        second = int(time.monotonic())
        if second != self._second:
            if self._left_out:
                log.info("lines_left_out", lines=self._left_out, more_than_a_second=self._lines_per_second)
            self._second, self._lines, self._left_out = second, 0, 0
        if self._lines < self._lines_per_second or logging.getLogger().isEnabledFor(logging.DEBUG):
            self._lines += 1
            return True
        self._left_out += 1
        return False


story = Story()


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
            log.warning("outage_began", of=self.what, why=in_words(why) or type(why).__name__)

    def ended(self) -> None:
        """Note a success; logged only when it ends an outage."""
        if self._since is not None:
            seconds = round(time.monotonic() - self._since, 1)
            self._since = None
            log.info("outage_ended", of=self.what, after_seconds=seconds)
