"""The AsyncAPI document of a service, made from the broker that runs.

FastStream tells the server, channels, operations and schemas. Pure functions add what it does not say of
messages that are facts: each under its own wire name, old versions beside new ones, with what AMQP carries
beside the body; and the arguments and bindings of the queue.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from faststream.rabbit import RabbitExchange
from faststream.specification import AsyncAPI

from events.facts.base import Fact
from events.messaging.broker import ServiceBroker
from events.strict_json import JSON_TYPE

Json = dict[str, Any]
BINDING_VERSION = "0.3.0"
PROPERTIES = "MessageProperties"
_EXAMPLE_ID = "3f0d1c5e-8f5b-4b0e-9d55-0c9f6a1b2c3d"
_EXAMPLE_TIME = "2026-01-31T12:00:00+00:00"


def asyncapi_document(broker: ServiceBroker) -> Json:
    """What a service subscribes to and publishes. It names no host and no user."""
    service = broker.service
    api = AsyncAPI(
        broker,
        title=f"{service.package}: facts it subscribes to and publishes",
        version="1.0.0",
        description=(
            "Facts arrive at least once and in any order; the message_id tells a repetition. An outside "
            "publisher may leave out all properties and headers but those that are required."
        ),
    )
    document: Json = api.to_specification().to_jsonable()
    _name_the_broker(document)
    schemas = document["components"]["schemas"]
    facts = {fact.wire_name: fact for fact in (*broker.subscribes, *service.states)}
    document["components"]["messages"] = {name: message_of(fact, schemas) for name, fact in facts.items()}
    for fact in service.states:
        _carry(document, fact.wire_name, [fact.wire_name])
    queue = broker.facts_subscriber.queue
    _carry(document, queue.name, sorted(fact.wire_name for fact in broker.subscribes))
    # AsyncAPI takes additions that begin with `x-`, as RabbitMQ's arguments do. A channel that is a queue has
    # no other place for the exchange behind it.
    binding = document["channels"][queue.name]["bindings"]["amqp"]
    binding["queue"] |= queue.arguments
    binding["x-exchange"] = _exchange(broker.facts_subscriber.exchange)
    document["operations"][queue.name]["bindings"]["amqp"]["cc"] = list(service.binding_keys)
    document["components"]["schemas"] = {PROPERTIES: properties_schema(), **_used(document, schemas)}
    return document


def message_of(fact: type[Fact], schemas: Mapping[str, Json]) -> Json:
    """One version of a fact as an AsyncAPI message, with an example."""
    about = {"description": fact.__doc__} if fact.__doc__ else {}
    return {
        "name": fact.wire_name,
        "title": fact.wire_name,
        **about,
        "contentType": JSON_TYPE,
        "correlationId": {"location": "$message.header#/correlation_id"},
        "headers": _reference("components", "schemas", PROPERTIES),
        "payload": _reference("components", "schemas", fact.__name__),
        "bindings": {"amqp": {"messageType": fact.wire_name, "bindingVersion": BINDING_VERSION}},
        "examples": [
            {
                "name": fact.wire_name,
                "headers": example_of(properties_schema(), {}) | {"type": fact.wire_name},
                "payload": example_of(schemas[fact.__name__], schemas),
            }
        ],
    }


def properties_schema() -> Json:
    """What AMQP carries beside the body; AsyncAPI has one place for AMQP's properties and its headers."""

    def text(place: str, what: str, **more: Any) -> Json:
        return {"type": "string", "description": f"AMQP {place}. {what}", **more}

    return {
        "type": "object",
        "title": PROPERTIES,
        "description": (
            "AMQP's properties and its headers; each says which it is. A service publishes them all, but "
            "for causation_id and traceparent where it has none."
        ),
        "properties": {
            "message_id": text("property", "The fact id: the same for every repetition.", format="uuid"),
            "type": text("property", "The wire name. It must not contradict the routing key."),
            "app_id": text("property", "Who publishes it.", examples=["web-shop"]),
            "correlation_id": text("property", "The order.", format="uuid"),
            "timestamp": {
                "type": "integer",
                "minimum": 0,
                "description": "AMQP property. When it was published, in seconds since 1970.",
                "examples": [1769860800],
            },
            "user_id": text(
                "property", "If at all, the user that one connects as: the broker refuses any other."
            ),
            "order_id": text("header", "The order, which the body names, too.", format="uuid"),
            "stated_at": text("header", "When it was published, to the microsecond.", format="date-time"),
            "causation_id": text("header", "The message_id of the fact that led to it.", format="uuid"),
            "traceparent": text(
                "header",
                "W3C Trace Context.",
                examples=["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
            ),
        },
        "required": ["message_id"],
    }


def example_of(schema: Json, schemas: Mapping[str, Json], name: str = "") -> Any:
    """Something that a schema takes. It knows what the schemas of facts consist of, and no more."""
    match schema:
        case {"$ref": reference}:
            return example_of(schemas[reference.rpartition("/")[2]], schemas, name)
        case {"examples": [first, *_]} | {"enum": [first, *_]} | {"const": first}:
            return first
        case {"anyOf": [first, *_]}:
            return example_of(first, schemas, name)
        case {"type": "object"}:
            return {
                key: example_of(part, schemas, key)
                for key, part in schema.get("properties", {}).items()
                if key != "user_id"
            }
        case {"type": "array"}:
            return [example_of(schema["items"], schemas, name)]
        case {"type": "integer"}:
            return max(1, schema.get("minimum", 1))
        case {"type": "boolean"}:
            return True
        case _:
            return _example_text(schema, name)


def _example_text(schema: Json, name: str) -> str:
    formats = {"uuid": _EXAMPLE_ID, "date-time": _EXAMPLE_TIME, "date": _EXAMPLE_TIME.partition("T")[0]}
    return formats.get(schema.get("format", ""), "EUR" if name == "currency" else name)


def _name_the_broker(document: Json) -> None:
    """FastStream has no words for a host that the reader is to fill in."""
    (server,) = document["servers"].values()
    name = server["host"].strip("{}")
    server["variables"] = {name: {"description": "Host and port of the broker."}}


def _carry(document: Json, channel: str, names: list[str]) -> None:
    """Have a channel, and the operation on it, tell the messages of these names."""
    document["channels"][channel]["messages"] = {
        name: _reference("components", "messages", name) for name in names
    }
    document["operations"][channel]["messages"] = [
        _reference("channels", channel, "messages", name) for name in names
    ]


def _exchange(exchange: RabbitExchange) -> Json:
    return {
        "name": exchange.name,
        "type": exchange.type.value,
        "durable": exchange.durable,
        "autoDelete": exchange.auto_delete,
        "vhost": "/",
    }


def _used(document: Json, schemas: Mapping[str, Json]) -> dict[str, Json]:
    """Without the unions of what a subscriber takes, which nothing refers to any more."""
    used: dict[str, Json] = {}
    wanted = set(_schemas_named([document["components"]["messages"]]))
    while wanted:
        name = wanted.pop()
        if name in schemas and name not in used:
            used[name] = schemas[name]
            wanted |= set(_schemas_named([schemas[name]]))
    return dict(sorted(used.items()))


def _schemas_named(parts: Iterable[Any]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, dict):
            reference = part.get("$ref")
            if isinstance(reference, str):
                yield reference.rpartition("/")[2]
            yield from _schemas_named(part.values())
        elif isinstance(part, list):
            yield from _schemas_named(part)


def _reference(*place: str) -> dict[str, str]:
    return {"$ref": "#/" + "/".join(place)}
