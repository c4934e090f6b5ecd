"""A fact as an AMQP message, and the way back: what is read, what is tolerated, what is refused and why."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from aio_pika import DeliveryMode, Message

from events.facts import Fact, Line, SupersededFact
from events.facts.order import OrderCreated
from events.messaging.envelope import Envelope, Unreadable, decode, derive_fact_id, encode
from tests.contracts.published import (
    EXAMPLES,
    ORDER_CREATED_V1,
    PAYMENT_REFUNDED_V1,
    SHIPMENT_CANCELLED_V1,
    SHIPMENT_DISPATCHED_V1,
    golden_body,
)
from tests.decide.given import CUSTOMER, ORDER, ORDER_CONFIRMED, ORDER_CREATED, TOKEN

FACT_ID, CAUSE = UUID(int=7), UUID(int=8)
STATED_AT = datetime(2026, 11, 21, 12, 30, 15, 123456, tzinfo=UTC)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def envelope(fact: Fact) -> Envelope:
    return Envelope(FACT_ID, fact, "order", STATED_AT, causation_id=CAUSE, traceparent=TRACEPARENT)


def message(body: Any = None, **properties: Any) -> Message:
    """What an outside publisher sends: the least that is needed, unless said otherwise."""
    given: dict[str, Any] = {"message_id": str(FACT_ID), "type": "order.created.v2"}
    content = ORDER_CREATED.model_dump_json() if body is None else json.dumps(body)
    return Message(content.encode(), **(given | properties))


def test_a_fact_is_written_in_the_terms_of_amqp() -> None:
    written = encode(envelope(ORDER_CONFIRMED))
    assert json.loads(written.body) == ORDER_CONFIRMED.model_dump(mode="json")
    assert written.content_type == "application/json"
    assert written.delivery_mode == DeliveryMode.PERSISTENT
    assert written.message_id == str(FACT_ID)
    assert written.type == "order.confirmed.v1"
    assert written.app_id == "order"
    assert written.correlation_id == str(ORDER)
    assert written.timestamp == STATED_AT
    assert written.headers == {
        "order_id": str(ORDER),
        "causation_id": str(CAUSE),
        "stated_at": "2026-11-21T12:30:15.123456+00:00",
        "traceparent": TRACEPARENT,
    }


def test_a_fact_without_a_cause_says_none() -> None:
    written = encode(Envelope(FACT_ID, ORDER_CREATED, "order", STATED_AT))
    assert set(written.headers) == {"order_id", "stated_at"}


def test_no_two_messages_share_their_headers() -> None:
    """Publishing writes into them: shared ones would mix up the traces of messages in flight together."""
    assert encode(envelope(ORDER_CREATED)).headers is not encode(envelope(ORDER_CREATED)).headers


@pytest.mark.parametrize("fact", EXAMPLES, ids=lambda fact: fact.wire_name)
def test_what_is_written_can_be_read(fact: Fact) -> None:
    read = decode(encode(envelope(fact)), routing_key=fact.wire_name)
    newest = fact.upcast() if isinstance(fact, SupersededFact) else fact
    assert read == envelope(newest)


def test_a_v1_order_is_read_as_one_line_of_v2() -> None:
    body = json.loads(golden_body(type(ORDER_CREATED_V1)).read_text())
    read = decode(message(body, type="order.created.v1"), routing_key=None)
    assert read.fact == OrderCreated(
        order_id=ORDER,
        customer=CUSTOMER,
        currency="SEK",
        payment_token=TOKEN,
        lines=(Line(sku="apple", quantity=2, amount_minor=500),),
    )


def test_a_v1_order_of_the_first_publishers_had_no_currency() -> None:
    body = json.loads(golden_body(type(ORDER_CREATED_V1)).read_text())
    del body["currency"]
    read = decode(message(body, type="order.created.v1"), routing_key=None)
    assert isinstance(read.fact, OrderCreated)
    assert read.fact.currency == "EUR"


@pytest.mark.parametrize(
    "published",
    [PAYMENT_REFUNDED_V1, SHIPMENT_CANCELLED_V1, SHIPMENT_DISPATCHED_V1],
    ids=lambda fact: fact.wire_name,
)
def test_what_was_published_before_people_could_settle_was_settled_by_nobody(published: Fact) -> None:
    read = decode(encode(envelope(published)), routing_key=published.wire_name)
    assert read.fact.version == 2
    assert read.fact.model_dump() == published.model_dump() | {"settled_by": None}


def test_an_outside_publisher_may_leave_out_all_but_the_id() -> None:
    now = datetime.now(UTC)
    read = decode(message(type=None), routing_key="order.created.v2")
    assert read.fact == ORDER_CREATED
    assert (read.fact_id, read.stated_by, read.causation_id, read.traceparent) == (
        FACT_ID,
        "unknown",
        None,
        None,
    )
    assert now <= read.stated_at <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("properties", "stated_at"),
    [
        ({"headers": {"stated_at": "2026-11-21T12:30:15.123456+00:00"}}, STATED_AT),
        ({"headers": {"stated_at": b"2026-11-21T12:30:15.123456Z"}}, STATED_AT),
        ({"headers": {"stated_at": "2026-11-21T12:30:15.123456"}}, STATED_AT),
        ({"headers": {"stated_at": "2026-11-21T13:30:15.123456+01:00"}}, STATED_AT),
        ({"timestamp": STATED_AT}, STATED_AT),
        ({"timestamp": STATED_AT, "headers": {"stated_at": "yesterday"}}, STATED_AT),
        ({"timestamp": STATED_AT, "headers": {"stated_at": 17}}, STATED_AT),
    ],
)
def test_when_it_was_published_is_read_from_what_is_there(
    properties: dict[str, Any], stated_at: datetime
) -> None:
    read = decode(message(**properties), routing_key=None)
    assert read.stated_at == stated_at
    assert read.stated_at.utcoffset() in (timedelta(0), timedelta(hours=1))


def test_a_cause_that_is_none_is_left_out() -> None:
    headers = {"causation_id": "because", "traceparent": 17}
    read = decode(message(headers=headers), routing_key=None)
    assert (read.causation_id, read.traceparent) == (None, None)


BODY = ORDER_CREATED.model_dump(mode="json")


def but(**changed: Any) -> dict[str, Any]:
    return {key: value for key, value in (BODY | changed).items() if value is not None}


@pytest.mark.parametrize(
    ("sent", "routing_key", "reason", "detail"),
    [
        (message(message_id=None), None, "no_fact_id", "message_id must be a UUID, not None"),
        (message(message_id="17"), None, "no_fact_id", "message_id must be a UUID, not '17'"),
        (message(type="order.created.v3"), None, "unknown_version", "order.created.v3"),
        (message(type="order.created.v0"), None, "unknown_version", "order.created.v0"),
        (message(type="order.created"), None, "unknown_fact", "order.created"),
        (message(type="order.shipped.v1"), None, "unknown_fact", "order.shipped.v1"),
        (message(type=None), "order.created.v3", "unknown_version", "order.created.v3"),
        (message(type=None), None, "unknown_fact", "no fact is named ''"),
        (message(), "payment.captured.v1", "forged_type", "order.created.v2"),
        (message(but(customer=None)), None, "bad_body", "customer: Field required"),
        (message(but(customer="Ada Lovelace")), None, "bad_body", "customer: String should match pattern"),
        (message(but(currency="euro")), None, "bad_body", "currency: String should match pattern"),
        (message(but(order_id="17")), None, "bad_body", "order_id: Input should be a valid UUID"),
        (message(but(lines=[])), None, "bad_body", "lines: Tuple should have at least 1 item"),
        (message(but(lines=BODY["lines"] * 51)), None, "bad_body", "lines: Tuple should have at most 100"),
        (message(but(lines=[BODY["lines"][0] | {"quantity": 0}])), None, "bad_body", "lines.0.quantity"),
        (message([1, 2]), None, "bad_body", "body: Input should be an object"),
        (Message(b"{", message_id=str(FACT_ID), type="order.created.v2"), None, "bad_body", "Invalid JSON"),
        (
            Message(b"\xff", message_id=str(FACT_ID), type="order.created.v2"),
            None,
            "bad_body",
            "order.created.v2",
        ),
    ],
)
def test_what_cannot_be_read_says_why(
    sent: Message, routing_key: str | None, reason: str, detail: str
) -> None:
    with pytest.raises(Unreadable) as refused:
        decode(sent, routing_key)
    assert refused.value.reason == reason
    assert detail in str(refused.value)


def test_the_id_of_a_published_fact_never_changes() -> None:
    """Ids that were published must be derived again after any restart, in any version of this program."""
    assert derive_fact_id(CAUSE, "order", 0) == UUID("16595afc-eb1c-5e4b-aa0e-a2d17006f530")


def test_every_published_fact_has_an_id_of_its_own() -> None:
    ids = {
        derive_fact_id(UUID(int=n), service, i)
        for n in (1, 2)
        for service in ("order", "payment")
        for i in (0, 1)
    }
    assert len(ids) == 8
