"""What a service hears and states as an AsyncAPI document, by FastStream."""

from typing import Any, Union

from faststream.rabbit import RabbitBroker, RabbitExchange, RabbitQueue
from faststream.rabbit.schemas import QueueType
from faststream.specification import AsyncAPI

from events.service import EXCHANGE, Service


def broker_of(service: Service) -> RabbitBroker:
    """The service on FastStream: what it hears and states, documented by type."""
    broker = RabbitBroker("amqp://broker", logger=None, app_id=service.name)
    exchange = RabbitExchange(EXCHANGE, declare=False)

    async def hear(fact: Any) -> None:
        """Decode, decide, commit with its batch, acknowledge."""

    hear.__annotations__["fact"] = Union[service.hears]  # noqa: UP007 - a union made of a tuple
    broker.subscriber(
        RabbitQueue(service.queue, queue_type=QueueType.QUORUM, declare=False),
        exchange,
        title=service.queue,
        description=f"Bound to {', '.join(service.binding_keys)}.",
    )(hear)
    for fact in service.states:
        broker.publisher(
            routing_key=fact.wire_name,
            exchange=exchange,
            title=fact.wire_name,
            description=fact.__doc__,
            schema=fact,
        )
    return broker


def asyncapi_document(service: Service) -> dict[str, Any]:
    """The AsyncAPI document of a service, derived from the types of its `decide`."""
    api = AsyncAPI(
        broker_of(service),
        title=f"{service.package}: facts heard and stated",
        version="1.0.0",
    )
    document: dict[str, Any] = api.to_specification().to_jsonable()
    return document
