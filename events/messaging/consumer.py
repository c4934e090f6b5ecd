"""Runs a service's FastStream broker: for ever, whatever becomes of the server, and until it is drained."""

import asyncio
import contextlib
from collections.abc import Sequence

from aio_pika import IncomingMessage
from aio_pika.abc import AbstractRobustConnection

from events.messaging.acknowledgements import Acknowledgements
from events.messaging.broker import Receive, ServiceBroker
from events.messaging.connection import (
    BROKER_AWAY,
    CLOSE_TIMEOUT_SECONDS,
    closed_means_away,
    lost_means_away,
)
from events.runtime.promptly import promptly
from events.runtime.settings import ServiceSettings
from events.service import Service
from events.telemetry.log import Outage

# How many times longer than the pause between two attempts the broker may take to answer.
_PATIENCE = 4


class Consumer:
    """Consumes one queue. What arrives goes to `receive`; `acknowledge` takes it off the queue."""

    def __init__(self, settings: ServiceSettings, service: Service, receive: Receive) -> None:
        self._settings = settings
        self._service = service
        self._receive = receive
        self._acknowledgements = Acknowledgements()
        self._outage = Outage("broker, for consuming")
        self._answer_seconds = settings.reconnect_seconds * _PATIENCE
        self._connection: AbstractRobustConnection | None = None
        self._lost = asyncio.Event()
        self.broker = self._new_broker()

    async def run(self) -> None:
        """Consume for ever; wait for a broker that is away."""
        while True:
            try:
                await self._consume_over_one_connection()
            except BROKER_AWAY as error:
                self._outage.began(error)
            await asyncio.sleep(self._settings.reconnect_seconds)
            self.broker = self._new_broker()

    async def working(self) -> bool:
        """Whether the broker counts a consumer on the queue, over a connection that answers."""
        connection = self._connection
        if connection is None or not self.broker.facts_subscriber.running:
            return False
        try:
            with lost_means_away(), closed_means_away():
                return await promptly(self._consumers(connection), self._answer_seconds) > 0
        except BROKER_AWAY:
            return False

    async def stop_receiving(self) -> None:
        """Cancel the consumer; what has arrived already can still be acknowledged."""
        if self._connection is not None:
            with contextlib.suppress(*BROKER_AWAY), closed_means_away():
                await promptly(self.broker.facts_subscriber.stop(), self._answer_seconds)

    async def acknowledge(self, messages: Sequence[IncomingMessage]) -> None:
        """Take messages off the queue whose effects are committed.

        A lost channel redelivers them: no matter.
        """
        with contextlib.suppress(*BROKER_AWAY), lost_means_away():
            await self._acknowledgements.acknowledge(messages)

    def _new_broker(self) -> ServiceBroker:
        """One for each connection. They are all declared the same."""
        lost = self._lost = asyncio.Event()
        return ServiceBroker(self._settings, self._service, self._receive, on_lost=lost.set)

    async def _consume_over_one_connection(self) -> None:
        """Until it is lost. Raises one of BROKER_AWAY then."""
        broker = self.broker
        # aio-pika bounds connecting by itself, this what follows.
        limit_seconds = self._settings.broker_connect_timeout_seconds + self._answer_seconds
        try:
            with lost_means_away(), closed_means_away():
                await promptly(broker.start(), limit_seconds)
                self._connection = await broker.connect()
            self._outage.ended()
            await self._lost.wait()
            raise ConnectionError("connection lost")
        finally:
            self._connection = None
            with contextlib.suppress(*BROKER_AWAY), closed_means_away():
                await promptly(broker.stop(), CLOSE_TIMEOUT_SECONDS)

    async def _consumers(self, connection: AbstractRobustConnection) -> int:
        async with connection.channel(publisher_confirms=False) as channel:
            queue = await channel.declare_queue(self._service.queue, passive=True)
            return queue.declaration_result.consumer_count or 0
