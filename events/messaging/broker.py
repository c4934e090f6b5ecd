"""A service on FastStream: its broker, with subscriber and publishers from the types of its `decide`."""

from collections.abc import Callable
from typing import Any, Union, cast

from faststream.rabbit import Channel, ExchangeType, RabbitBroker, RabbitExchange, RabbitQueue
from faststream.rabbit.schemas import QueueType
from faststream.rabbit.schemas.queue import QuorumQueueArgs
from faststream.security import SASLPlaintext
from yarl import URL

from events.facts.base import Fact, SupersededFact, published_facts
from events.messaging.connection import lasting_connection_url
from events.messaging.subscriber import DirectSubscriber, Receive, subscribe_directly
from events.messaging.topology import service_queue_arguments
from events.runtime.settings import ServiceSettings
from events.service import EXCHANGE, Service
from events.strict_json import JSON_TYPE
from events.telemetry.tracing import is_tracing

FACTS = RabbitExchange(EXCHANGE, type=ExchangeType.TOPIC, durable=True, declare=False)
# What the document says instead of where the broker is, which is not for everybody.
BROKER_SOMEWHERE = "amqp://{broker}/"
_GUEST = "guest"


class ServiceBroker(RabbitBroker):
    """One service's broker, on one connection. Nothing is declared on the server: that is provisioned.

    The queue's messages go to `receive`, one at a time, which has them acknowledged later. A connection that
    is lost is not used any more: whoever runs this starts another, perhaps on another node.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        service: Service,
        receive: Receive,
        *,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        url = URL(lasting_connection_url(settings)).update_query(name=f"{service.name} consumer")
        self.service = service
        self.subscribes = _with_old_versions(service.subscribes_to)
        self.channel = Channel(prefetch_count=settings.prefetch, publisher_confirms=False)
        super().__init__(
            url,
            app_id=service.name,
            default_channel=self.channel,
            on_close=[lambda *_: on_lost()],
            timeout=settings.broker_connect_timeout_seconds,
            reconnect_interval=settings.reconnect_seconds,
            graceful_timeout=settings.reconnect_seconds,
            security=SASLPlaintext(url.user or _GUEST, url.password or _GUEST),
            specification_url=BROKER_SOMEWHERE,
            description=(
                "RabbitMQ. Each service and each outside publisher has a user of its own, who may publish "
                "its own facts and no others. The virtual host is `/` unless the operator says otherwise."
            ),
            # A batch is decoded, judged and logged by the worker, message by message.
            apply_types=False,
            logger=None,
        )
        self.facts_subscriber = self._subscribe(service, receive, on_lost)
        for fact in service.publishes:
            self._publishes(fact)

    def _subscribe(self, service: Service, receive: Receive, on_lost: Callable[[], None]) -> DirectSubscriber:
        async def decide(fact: Any) -> None:
            """Decode, decide, commit with its batch, acknowledge."""
            receive(fact)

        decide.__annotations__["fact"] = Union[self.subscribes]  # noqa: UP007 - of a tuple
        subscriber = subscribe_directly(
            self,
            RabbitQueue(
                service.queue,
                queue_type=QueueType.QUORUM,
                durable=True,
                declare=False,
                arguments=cast(QuorumQueueArgs, service_queue_arguments(service)),
            ),
            FACTS,
            self.channel,
            receive,
            on_lost=on_lost,
            traced=is_tracing,
            title=service.queue,
            description=f"Bound to {', '.join(service.binding_keys)}.",
        )
        subscriber(decide)
        return subscriber

    def _publishes(self, fact: type[Fact]) -> None:
        self.publisher(
            routing_key=fact.wire_name,
            exchange=FACTS,
            persist=True,
            mandatory=True,
            content_type=JSON_TYPE,
            message_type=fact.wire_name,
            title=fact.wire_name,
            description=fact.__doc__,
            schema=fact,
        )


def _with_old_versions(facts: tuple[type[Fact], ...]) -> tuple[type[Fact], ...]:
    """These, and what old publishers still send in place of one of them."""
    names = {fact.wire_name.rpartition(".")[0] for fact in facts}
    return facts + tuple(
        fact
        for name, fact in sorted(published_facts().items())
        if issubclass(fact, SupersededFact) and name.rpartition(".")[0] in names
    )
