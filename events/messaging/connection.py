"""Where the broker is, what says that it is away, and AMQP as this process reads it."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager

from aio_pika.exceptions import AMQPError
from yarl import URL

from events.messaging.lenient_pamqp import be_lenient
from events.runtime.settings import ProcessSettings

# Two of aiormq's own: RuntimeError for a channel or connection that was closed under one's hands, and
# StopAsyncIteration for a connection that ends before its handshake.
BROKER_AWAY = (AMQPError, OSError, TimeoutError, RuntimeError, StopAsyncIteration)


@contextmanager
def lost_means_away() -> Iterator[None]:
    """Raises ConnectionError where aiormq cancels what was asked of a channel that has ended.

    Only who is cancelled from outside is to end: no loop that waits for the broker must end with a channel.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionError("closed before the answer came") from error


# A message with malformed properties must not end the connection, and with it every message behind.
be_lenient()


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
