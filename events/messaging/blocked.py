"""Whether the broker blocks a connection: under a memory or disk alarm it reads no more of what publishes.

RabbitMQ says so (`connection.blocked`) to a connection that publishes, at its first publish, and never to one
that only consumes. aiormq has `ready()` wait while it is so; the broker's reason it tells its log alone.
"""

import asyncio
import logging
import weakref
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from aio_pika.abc import AbstractConnection
from aiormq.abc import AbstractConnection as Underlying

from events.messaging.connection import BROKER_AWAY, closed_means_away, lost_means_away
from events.telemetry.log import log

# How soon it is noticed, and how long `ready()` may take where nothing is blocked.
NOTICE_SECONDS = 0.25
ANSWER_SECONDS = 0.05
UNKNOWN_REASON = "memory or disk alarm"


class _Reasons(logging.Filter):
    """Takes the reasons out of what aiormq logs, and lets nothing but what is critical pass."""

    def __init__(self) -> None:
        super().__init__()
        self.of: weakref.WeakKeyDictionary[object, str] = weakref.WeakKeyDictionary()

    def filter(self, record: logging.LogRecord) -> bool:
        given = record.args
        if "blocked by" in str(record.msg) and isinstance(given, tuple) and len(given) > 1:
            with suppress(TypeError):
                self.of[given[0]] = str(given[1])
        return record.levelno >= logging.CRITICAL


_reasons = _Reasons()
_aiormq = logging.getLogger("aiormq.connection")
_aiormq.setLevel(logging.WARNING)
_aiormq.addFilter(_reasons)


class Blocked:
    """Whether one connection, or the one that took its place, is blocked."""

    def __init__(self, of: str, react: Callable[[], None] = lambda: None) -> None:
        """`react` is called when it begins and when it ends."""
        self.reason: str | None = None
        self._of = of
        self._react = react
        self._since = 0.0

    def __bool__(self) -> bool:
        return self.reason is not None

    async def watch(self, connection: AbstractConnection) -> None:
        """For as long as the connection lasts; to be cancelled with it.

        Who is blocked when the connection is lost counts as such until the next one is found not to be.
        """
        while True:
            if (transport := connection.transport) is not None:
                # Who publishes notices by itself that the connection is lost.
                with suppress(*BROKER_AWAY), lost_means_away(), closed_means_away():
                    await self._look(transport.connection)
            await asyncio.sleep(NOTICE_SECONDS)

    async def _look(self, underlying: Underlying) -> None:
        ready = asyncio.ensure_future(underlying.ready())
        try:
            done, _ = await asyncio.wait([ready], timeout=ANSWER_SECONDS)
            if not done:
                self._begin(_reasons.of.get(underlying, UNKNOWN_REASON))
                await ready
            self.end()
        finally:
            ready.cancel()

    def _begin(self, reason: str) -> None:
        if self.reason is None:
            self._since = monotonic()
            log.warning("broker_blocks_publishers", connection=self._of, why=reason)
        self.reason = reason
        self._react()

    def end(self) -> None:
        """It is not, or not any more."""
        if self.reason is not None:
            seconds = round(monotonic() - self._since, 1)
            log.info("broker_takes_publishes_again", connection=self._of, after_seconds=seconds)
            self.reason = None
            self._react()


def blocked_detail(connection: Blocked) -> dict[str, str]:
    """What `/readyz` says of a connection that is blocked; nothing while it is not."""
    if connection.reason is None:
        return {}
    return {"broker_blocked": f"the broker blocks publishers: {connection.reason}"}
