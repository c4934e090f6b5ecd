"""An order is refused for the same faults over HTTP and AMQP alike, and each fault is said once."""

import json
from typing import Any
from unittest import mock
from uuid import uuid4

import pytest
from aio_pika import Message
from fastapi import FastAPI

from events.facts.base import DECIMALS, MAX_LINES
from events.http.application import create_app
from events.messaging.envelope import Unreadable, decode
from events.runtime.settings import ServiceSettings
from order_svc.api import router
from tests.tracker.watch import Answer, ask

LINE = {"sku": "apple", "quantity": 1, "amount_minor": 100}
ORDER: dict[str, Any] = {
    "customer": "cust_ada",
    "currency": "EUR",
    "payment_token": "tok_ok",
    "lines": [LINE],
}
WHOLE = "Input should be a valid integer"


def but(**changes: Any) -> str:
    return json.dumps(ORDER | changes)


def line(**changes: Any) -> str:
    return but(lines=[LINE | changes])


# A body, where its one fault is, and what is said of it.
FAULTY: dict[str, tuple[str, str, str]] = {
    "true for a number": (line(quantity=True), "lines.0.quantity", WHOLE),
    "a text for a number": (line(quantity="3"), "lines.0.quantity", WHOLE),
    "underscores": (line(amount_minor="1_000"), "lines.0.amount_minor", WHOLE),
    "a decimal": (line(quantity=1.0), "lines.0.quantity", WHOLE),
    "an exponent": (line(quantity=7).replace("7", "1e2"), "lines.0.quantity", WHOLE),
    "none of it": (line(quantity=0), "lines.0.quantity", "Input should be greater than or equal to 1"),
    "no lines": (but(lines=[]), "lines", "Tuple should have at least 1 item after validation, not 0"),
    "too many lines": (but(lines=[LINE] * (MAX_LINES + 1)), "lines", "at most 100 items"),
    "a line that is none": (but(lines=[7]), "lines.0", "Input should be"),
    "no currency": (but(currency="EUX"), "currency", "ISO 4217 knows no currency EUX with a minor unit"),
    "gold": (but(currency="XAU"), "currency", "ISO 4217 knows no currency XAU with a minor unit"),
    "no currency at all": (but(currency="XXX"), "currency", "ISO 4217 knows no currency XXX"),
    "a small currency": (but(currency="eur"), "currency", "String should match pattern"),
    "a key twice": (but()[:-1] + ', "customer": "cust_eve"}', "body", "it names the key 'customer' twice"),
    "a key of a line twice": (line().replace('{"sku"', '{"quantity": 9, "sku"'), "body", "'quantity' twice"),
    "an unknown key twice": (but()[:-1] + ', "x": {"y": 1, "y": 1}}', "body", "it names the key 'y' twice"),
}


@pytest.fixture(scope="module")
def app() -> FastAPI:
    """order_svc as far as it looks at a request: nothing is behind it."""
    settings = ServiceSettings(
        broker_url="amqp://nowhere", database_url="postgresql://", http_port=1, orders="internal"
    )
    return create_app("order_svc", "", settings, mock.Mock(), [router])


async def posted(app: FastAPI, body: str) -> Answer:
    return await ask(app, "POST", "/orders", body.encode())


def published(body: str, **properties: Any) -> Message:
    with_id = f'{{"order_id": "{uuid4()}", {body[1:]}'
    return Message(with_id.encode(), message_id=str(uuid4()), type="order.created.v2", **properties)


@pytest.mark.parametrize("what", FAULTY)
async def test_it_is_refused_over_http(app: FastAPI, what: str) -> None:
    body, at, problem = FAULTY[what]
    answer = await posted(app, body)
    assert (answer.status, answer.headers["content-type"]) == (422, "application/problem+json")
    [error] = answer.json()["errors"]
    assert error["at"] in (f"body.{at}", at)
    assert problem in error["problem"]


@pytest.mark.parametrize("what", FAULTY)
def test_it_is_refused_over_amqp(what: str) -> None:
    body, at, problem = FAULTY[what]
    with pytest.raises(Unreadable) as refused:
        decode(published(body), None)
    assert refused.value.reason == "bad_body"
    detail = str(refused.value).removeprefix("order.created.v2: ")
    assert detail.startswith(f"{at}: ")
    assert problem in detail
    assert ";" not in detail


async def test_every_line_with_a_fault_is_named_and_nothing_else(app: FastAPI) -> None:
    answer = await posted(app, but(lines=[LINE | {"quantity": 0}, LINE, LINE | {"sku": ""}]))
    assert [error["at"] for error in answer.json()["errors"]] == ["body.lines.0.quantity", "body.lines.2.sku"]


@pytest.mark.parametrize("currency", ["EUR", "JPY", "KWD", "CLF"])
def test_a_currency_with_a_minor_unit_is_taken(currency: str) -> None:
    decode(published(but(currency=currency)), None)


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/xml", "application/json; charset=latin-1"]
)
def test_a_message_of_another_type_is_refused(content_type: str) -> None:
    with pytest.raises(Unreadable, match="a body is application/json") as refused:
        decode(published(but(), content_type=content_type), None)
    assert refused.value.reason == "wrong_content_type"


@pytest.mark.parametrize("content_type", [None, "", "application/json", "Application/JSON; charset=utf-8"])
def test_a_message_of_this_type_or_of_none_is_taken(content_type: str | None) -> None:
    decode(published(but(), content_type=content_type), None)


async def test_the_document_names_the_currencies(app: FastAPI) -> None:
    schema = app.openapi()["components"]["schemas"]["OrderRequest"]["properties"]["currency"]
    assert schema["enum"] == sorted(DECIMALS)
