"""The AsyncAPI document of each service: made of its broker, right, whole, and without a secret."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote
from uuid import UUID

import pytest

from compose.system import SERVICES
from events.facts.base import Fact, SupersededFact
from events.messaging.asyncapi import PROPERTIES, asyncapi_document
from events.messaging.broker import ServiceBroker
from events.messaging.envelope import fields_of
from events.messaging.topology import bindings, service_queue_arguments
from events.runtime.settings import ServiceSettings
from events.service import EXCHANGE, Service
from tests.contracts.published import PUBLISHED

BROKER_URL = "amqps://somebody:hunter2@inside.example:5671/orders?heartbeat=3"
pytestmark = pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)

Json = dict[str, Any]


def broker_of(service: Service, broker_url: str = BROKER_URL) -> ServiceBroker:
    settings = ServiceSettings(broker_url=broker_url, database_url="postgresql://unused", http_port=1)
    return ServiceBroker(settings, service, lambda messages: None)


@pytest.fixture
def document(service: Service) -> Json:
    """As somebody gets it: through JSON."""
    found: Json = json.loads(json.dumps(asyncapi_document(broker_of(service))))
    return found


def subscribed(service: Service) -> dict[str, type[Fact]]:
    """Every version that it takes, found by its bindings alone."""
    bound = [
        key for exchange, key, queue in bindings([service]) if (exchange, queue) == (EXCHANGE, service.queue)
    ]
    prefixes = tuple(key.removesuffix("*") for key in bound)
    return {name: fact for name, fact in PUBLISHED.items() if name.startswith(prefixes)}


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for inner in part.values():
            yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


def resolved(document: Json, reference: str) -> Any:
    found: Any = document
    for step in reference.removeprefix("#/").split("/"):
        found = found[unquote(step).replace("~1", "/").replace("~0", "~")]
    return found


def named(channel_or_operation: Json) -> list[str]:
    messages = channel_or_operation["messages"]
    found = messages.values() if isinstance(messages, dict) else messages
    return [reference["$ref"].rpartition("/")[2] for reference in found]


def test_every_reference_leads_somewhere_and_nothing_is_there_for_nobody(
    document: Json, service: Service
) -> None:
    assert document["asyncapi"] == "3.0.0"
    referenced = set(references(document))
    for reference in referenced:
        resolved(document, reference)
    for section, folder in (
        ("channels", document["channels"]),
        ("components/messages", document["components"]["messages"]),
        ("components/schemas", document["components"]["schemas"]),
        ("components/securitySchemes", document["components"]["securitySchemes"]),
        ("servers", document["servers"]),
    ):
        assert {f"#/{section}/{name}" for name in folder} <= referenced, section
    for name, channel in document["channels"].items():
        assert {f"#/channels/{name}/messages/{message}" for message in channel["messages"]} <= referenced


def test_it_publishes_each_of_its_facts_once_on_the_topic_exchange(document: Json, service: Service) -> None:
    sends = [one for one in document["operations"].values() if one["action"] == "send"]
    assert sorted(name for one in sends for name in named(one)) == sorted(
        fact.wire_name for fact in service.publishes
    )
    for one in sends:
        channel = resolved(document, one["channel"]["$ref"])
        (name,) = named(one)
        assert named(channel) == [name] == [channel["address"]]
        amqp = one["bindings"]["amqp"]
        assert (amqp["cc"], amqp["deliveryMode"], amqp["mandatory"]) == ([name], 2, True)
        exchange = channel["bindings"]["amqp"]["exchange"]
        assert channel["bindings"]["amqp"]["is"] == "routingKey"
        assert (exchange["name"], exchange["type"], exchange["durable"]) == (EXCHANGE, "topic", True)


def test_it_receives_every_version_that_reaches_its_queue_once(document: Json, service: Service) -> None:
    (receive,) = [one for one in document["operations"].values() if one["action"] == "receive"]
    channel = resolved(document, receive["channel"]["$ref"])
    assert named(channel) == named(receive) == sorted(subscribed(service))
    assert channel["address"] == service.queue
    assert set(receive["bindings"]["amqp"]["cc"]) == set(service.binding_keys)
    amqp = channel["bindings"]["amqp"]
    assert amqp["is"] == "queue"
    assert amqp["queue"].items() >= {"name": service.queue, "durable": True, "autoDelete": False}.items()
    assert amqp["queue"].items() >= service_queue_arguments(service).items()
    assert amqp["queue"]["x-queue-type"] == "quorum"
    assert (amqp["x-exchange"]["name"], amqp["x-exchange"]["type"]) == (EXCHANGE, "topic")


def test_old_versions_are_messages_of_their_own(document: Json, service: Service) -> None:
    old = [name for name, fact in subscribed(service).items() if issubclass(fact, SupersededFact)]
    if service.name in ("order", "inventory"):
        assert "order.created.v1" in old
    for name in old:
        stem, _, version = name.rpartition(".v")
        newer = f"{stem}.v{int(version) + 1}"
        messages = document["components"]["messages"]
        assert messages[name]["payload"] != messages[newer]["payload"]


def test_messages_are_named_and_their_bodies_are_those_of_the_facts(document: Json, service: Service) -> None:
    facts = {**subscribed(service), **{fact.wire_name: fact for fact in service.publishes}}
    messages = document["components"]["messages"]
    assert messages.keys() == facts.keys()
    for name, found in messages.items():
        assert (found["name"], found["title"]) == (name, name)
        assert found["contentType"] == "application/json"
        assert found["bindings"]["amqp"]["messageType"] == name
        schema = resolved(document, found["payload"]["$ref"])
        wanted = facts[name].model_json_schema(ref_template="#/components/schemas/{model}")
        assert {"$defs": wanted.pop("$defs", {}), **wanted} == {
            "$defs": {
                part: document["components"]["schemas"][part]
                for part in facts[name].model_json_schema().get("$defs", {})
            },
            **schema,
        }


def test_all_that_is_needed_of_an_outsider_is_a_message_id(document: Json, service: Service) -> None:
    found = document["components"]["schemas"][PROPERTIES]
    assert found["required"] == ["message_id"]
    assert found["properties"]["message_id"]["format"] == "uuid"
    for name, about in found["properties"].items():
        assert about["description"].startswith(("AMQP property. ", "AMQP header. ")), name


def test_what_is_sent_beside_a_body_is_listed_and_nothing_else(document: Json, service: Service) -> None:
    sent = fields_of(
        fact_id=UUID(int=1),
        wire_name="order.created.v2",
        order_id=UUID(int=2),
        stated_by=service.name,
        stated_at=datetime.now(UTC),
        causation_id=UUID(int=3),
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    )
    described = document["components"]["schemas"][PROPERTIES]["properties"]
    headers = {name for name, about in described.items() if about["description"].startswith("AMQP header")}
    assert headers == sent.pop("headers").keys()
    # The first two have places of their own. A user is named by the channel, if at all.
    assert sent.keys() - {"content_type", "delivery_mode"} | {"user_id"} == described.keys() - headers


def test_its_examples_are_messages_that_it_takes(document: Json, service: Service) -> None:
    for name, found in document["components"]["messages"].items():
        (example,) = found["examples"]
        fact = PUBLISHED[name].model_validate_json(json.dumps(example["payload"]))
        assert json.loads(fact.model_dump_json()).keys() == example["payload"].keys()
        headers = found["headers"]["$ref"].rpartition("/")[2]
        assert example["headers"].keys() <= document["components"]["schemas"][headers]["properties"].keys()
        assert example["headers"]["type"] == name
        assert "user_id" not in example["headers"]


def test_it_says_nothing_of_where_and_as_whom(document: Json, service: Service) -> None:
    text = json.dumps(document)
    assert not [word for word in ("hunter2", "somebody", "inside.example", "5671", "orders?") if word in text]
    assert asyncapi_document(broker_of(service, "amqp://other/")) == document
    assert [scheme["type"] for scheme in document["components"]["securitySchemes"].values()] == [
        "userPassword"
    ]
