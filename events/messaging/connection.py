"""Where the broker is, what says that it is away, and connections by aio-pika."""

import asyncio
import contextlib
import logging
import random
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from time import monotonic
from types import TracebackType

import aio_pika
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import (
    AMQPChannelError,
    AMQPConnectionError,
    ChannelInvalidStateError,
    InvalidFrameError,
)
from aiormq.abc import AbstractConnection as Underlying
from yarl import URL

from events.messaging.lenient_pamqp import be_lenient
from events.runtime.loops import promptly
from events.runtime.settings import ProcessSettings
from events.telemetry.log import log

# The broker cannot be reached, does not answer, or has closed the connection or the channel: that may pass.
# Neither a message that it refuses is among them, nor what a mistake in a program raises.
BROKER_AWAY = (
    AMQPConnectionError,
    AMQPChannelError,
    ChannelInvalidStateError,
    # What answers does not speak AMQP.
    InvalidFrameError,
    ConnectionError,
    TimeoutError,
)
# An orderly end takes milliseconds.
CLOSE_TIMEOUT_SECONDS = 2.0

# A message with malformed properties must not end the connection, and with it every message behind.
be_lenient()


class _LostMeansAway:
    """See `lost_means_away`. A class, for it is entered for every message that is published."""

    def __enter__(self) -> None:
        """Nothing yet."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                raise ConnectionError("closed before the answer came") from error


class _ClosedMeansAway:
    """See `closed_means_away`."""

    def __enter__(self) -> None:
        """Nothing yet."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is StopAsyncIteration:
            raise ConnectionError("closed during the handshake") from error
        if kind is RuntimeError or kind is Exception:
            raise ConnectionError(str(error) or "closed before the answer came") from error


_LOST, _CLOSED = _LostMeansAway(), _ClosedMeansAway()


def lost_means_away() -> AbstractContextManager[None]:
    """Raises ConnectionError where aiormq cancels what was asked of a channel that has ended.

    Only who is cancelled from outside is to end: no loop that waits for the broker must end with a channel.
    """
    return _LOST


def closed_means_away() -> AbstractContextManager[None]:
    """Raises ConnectionError for aiormq's and aio-pika's bare Exception, RuntimeError and StopAsyncIteration.

    They raise these for a channel or a connection that was closed under one's hands, or ends before its
    handshake. Put around a call of theirs and nothing else. What is derived from them passes.
    """
    return _CLOSED


@asynccontextmanager
async def connected(
    settings: ProcessSettings, connection_name: str, timeout_seconds: float
) -> AsyncIterator[AbstractConnection]:
    """A connection of its own, for as long as the context lasts or the broker lets it.

    Raises one of BROKER_AWAY when there is none to be had.
    """
    with closed_means_away():
        connection = await promptly(
            aio_pika.connect(
                lasting_connection_url(settings),
                client_properties={"connection_name": connection_name},
                timeout=timeout_seconds,
            ),
            timeout_seconds,
        )
    try:
        yield connection
    finally:
        # A connection that does not answer any more is left to itself: its heartbeat will end it.
        with contextlib.suppress(*BROKER_AWAY), closed_means_away():
            await promptly(connection.close(), CLOSE_TIMEOUT_SECONDS)


def connection_url(settings: ProcessSettings) -> str:
    """The address of one of the broker's nodes, drawn anew each time.

    So clients spread over the nodes, and who cannot connect to one soon tries another.
    """
    url = URL(settings.broker_url)
    node = random.choice(("", *settings.broker_nodes))  # noqa: S311 - not a secret
    if not node:
        return str(url)
    host, _, port = node.rpartition(":")
    return str(url.with_host(host).with_port(int(port)))


def lasting_connection_url(settings: ProcessSettings) -> str:
    """The same for a connection that stays: its heartbeats notice a loss that nobody announces.

    It counts as lost after some three heartbeats. A heartbeat in the configured URL is respected.
    """
    url = URL(connection_url(settings))
    return str(url.update_query({"heartbeat": settings.broker_heartbeat_seconds, **url.query}))


def broker_user(settings: ProcessSettings) -> str:
    """As whom this process connects; AMQP's default where the address names nobody."""
    return URL(settings.broker_url).user or "guest"


# Whether the broker blocks a connection: under a memory or disk alarm it reads no more of what publishes.
#
# RabbitMQ says so (`connection.blocked`) to a connection that publishes, at its first publish, and never to
# one that only consumes. aiormq has `ready()` wait while it is so; the broker's reason it tells its log
# alone.


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
