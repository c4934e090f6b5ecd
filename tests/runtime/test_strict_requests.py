"""What a service takes of a request: JSON that nobody reads differently, and nothing that it cannot keep."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from unittest import mock
from uuid import uuid4

import pytest
from aiohttp import ClientSession
from fastapi import APIRouter
from pydantic import BaseModel
from yarl import URL

from events.http.application import create_app
from events.http.authentication import PUBLIC
from events.http.limits import StrictRoute
from events.runtime.settings import ServiceSettings
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage

MAX_BYTES = 200


@pytest.fixture
async def http() -> AsyncIterator[ClientSession]:
    async with ClientSession() as session:
        yield session


async def test_it_answers_what_its_function_answers(stage: Stage, http: ClientSession) -> None:
    url = await stage.serve(await stage.start())
    order = str(uuid4())
    async with http.post(f"{url}/raises", json={"order_id": order, "by": 2}) as answer:
        assert (answer.status, await answer.json()) == (200, {"count": 2})
    async with http.post(f"{url}/raises?unasked=1", json={"order_id": order}) as answer:
        assert (answer.status, await answer.json()) == (200, {"count": 3})


async def test_another_method_or_path_goes_the_usual_way(stage: Stage, http: ClientSession) -> None:
    url = await stage.serve(await stage.start())
    async with http.get(f"{url}/raises") as answer:
        assert answer.status == 405
    async with http.post(f"{url}/raises/more", json={}) as answer:
        assert answer.status == 404


async def test_it_is_documented_and_measured(stage: Stage, http: ClientSession) -> None:
    url = await stage.serve(await stage.start())
    async with http.post(f"{url}/raises", json={"order_id": str(uuid4())}) as answer:
        assert answer.status == 200
    async with http.get(f"{url}/openapi.json") as answer:
        described = (await answer.json())["paths"]["/raises"]["post"]
        models = (await answer.json())["components"]["schemas"]
    assert described["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/RaiseRequest")
    assert "order_id" in models["RaiseRequest"]["properties"]
    async with http.get(f"{url}/metrics") as answer:
        assert 'http_request_seconds_count{method="POST",route="/raises",status="2xx"}' in await answer.text()


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"order_id": "seven"}, 422, "body.order_id"),
        ({}, 422, "body.order_id"),
        ({"order_id": str(uuid4()), "by": 0}, 500, "log"),
        ({"order_id": "x" * MAX_BYTES}, 413, str(MAX_BYTES)),
    ],
)
async def test_what_is_wrong_becomes_a_problem(
    stage: Stage, http: ClientSession, body: Any, status: int, word: str
) -> None:
    url = await stage.serve(await stage.start(), max_request_bytes=MAX_BYTES)
    async with http.post(f"{url}/raises", json=body) as answer:
        assert (answer.status, answer.content_type) == (status, "application/problem+json")
        assert word in await answer.text()


async def test_a_body_that_says_nothing_of_its_length_has_a_bound_too(
    stage: Stage, http: ClientSession
) -> None:
    async def in_chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * MAX_BYTES

    url = await stage.serve(await stage.start(), max_request_bytes=MAX_BYTES)
    async with http.post(f"{url}/raises", data=in_chunks()) as answer:
        assert answer.status == 413


async def test_what_cannot_be_taken_is_asked_to_come_back(stage: Stage, http: ClientSession) -> None:
    proxy = await stage.proxy_broker()
    host = await stage.start(broker_url=proxy.url(stage.broker_url), max_outbox_backlog=3)
    url = await stage.serve(host)
    proxy.cut()
    statuses = []
    for _ in range(5):
        async with http.post(f"{url}/raises", json={"order_id": str(uuid4())}) as answer:
            statuses.append(answer.status)
            if answer.status == 503:
                assert int(answer.headers["Retry-After"]) > 0
    assert statuses == [200, 200, 200, 503, 503]
    proxy.restore()
    await eventually(stage.drained)
    assert len(stage.received) == await stage.size("tallies") == 3


async def test_more_requests_at_a_time_than_allowed_are_asked_to_come_back(
    stage: Stage, http: ClientSession
) -> None:
    """But not those that ask whether it is alive: who gets no answer to that may end the process."""
    url = await stage.serve(await stage.start(), max_open_requests=1)
    order = uuid4()
    async with http.post(f"{url}/raises", json={"order_id": str(order)}) as answer:
        assert answer.status == 200
    async with stage.holding(order):
        first = asyncio.create_task(http.post(f"{url}/raises", json={"order_id": str(order)}).__aenter__())
        await eventually(stage.blocked)
        async with http.post(f"{url}/raises", json={"order_id": str(order)}) as answer:
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) > 0
        async with http.get(f"{url}/healthz") as answer:
            assert answer.status == 200
    assert (await first).status == 200


ORDER = str(uuid4())
BODIES: dict[str, tuple[bytes, str, str]] = {
    "true for a number": (b'{"order_id": "%s", "by": true}', "body.by", "valid integer"),
    "a text for a number": (b'{"order_id": "%s", "by": "3"}', "body.by", "valid integer"),
    "a text with underscores": (b'{"order_id": "%s", "by": "1_000"}', "body.by", "valid integer"),
    "a decimal for a whole number": (b'{"order_id": "%s", "by": 1.0}', "body.by", "valid integer"),
    "a key twice": (b'{"order_id": "%s", "by": 1, "by": 2}', "body", "names the key 'by' twice"),
    "a key twice, deeper": (b'{"order_id": "%s", "x": [{"a": 1, "a": 1}]}', "body", "the key 'a' twice"),
    "a number that is none": (b'{"order_id": "%s", "by": NaN}', "body", "NaN is no number"),
    "U+0000": (b'{"order_id": "%s", "x": ["a\\u0000"]}', "body", "U+0000"),
    "U+0000 in a key": (b'{"order_id": "%s", "a\\u0000": 1}', "body", "U+0000"),
    "half a pair": (b'{"order_id": "%s", "x": {"y": "\\ud800"}}', "body", "surrogate"),
    "half a pair in a key": (b'{"order_id": "%s", "\\udfff": 1}', "body", "surrogate"),
    "U+0000 as it is": (b'{"order_id": "%s", "x": "\0"}', "body", "not JSON"),
    "Latin-1": (b'{"order_id": "%s", "x": "\xe9"}', "body", "UTF-8"),
    "a very long number": (b'{"order_id": "%s", "x": ' + b"9" * 5_000 + b"}", "body", "it "),
    "very deep": (b'{"order_id": "%s", "x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "body", "too deep"),
}


@pytest.mark.parametrize("what", BODIES)
async def test_one_fault_of_a_body_is_one_message(stage: Stage, http: ClientSession, what: str) -> None:
    url = await stage.serve(await stage.start())
    body, at, problem = BODIES[what]
    headers = {"Content-Type": "application/json"}
    async with http.post(f"{url}/raises", data=body % ORDER.encode(), headers=headers) as answer:
        assert (answer.status, answer.content_type) == (422, "application/problem+json")
        [error] = (await answer.json(content_type=None))["errors"]
    assert error["at"] == at
    assert problem in error["problem"]


async def test_an_escape_is_no_fault_by_itself(stage: Stage, http: ClientSession) -> None:
    url = await stage.serve(await stage.start())
    headers = {"Content-Type": "application/json; charset=UTF-8"}
    body = b'{"order_id": "%s", "x": "\\u00e9 \\\\u0000 \\ud83d\\ude00"}' % ORDER.encode()
    async with http.post(f"{url}/raises", data=body, headers=headers) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "json",
        "application/octet-stream",
        "application/json; charset=latin-1",
        "application/vnd.it+json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ],
)
async def test_a_body_of_another_type_is_not_read(
    stage: Stage, http: ClientSession, content_type: str
) -> None:
    url = await stage.serve(await stage.start())
    body, headers = b'{"order_id": "%s"}' % ORDER.encode(), {"Content-Type": content_type}
    async with http.post(f"{url}/raises", data=body, headers=headers) as answer:
        assert (answer.status, answer.content_type) == (415, "application/problem+json")
        assert content_type in (await answer.json(content_type=None))["detail"]


async def test_no_body_at_all_is_missing_and_not_of_a_wrong_type(stage: Stage, http: ClientSession) -> None:
    url = await stage.serve(await stage.start())
    async with http.post(f"{url}/raises") as answer:
        assert answer.status == 422
        assert (await answer.json(content_type=None))["errors"] == [
            {"at": "body", "problem": "Field required"}
        ]


@pytest.mark.parametrize(
    ("method", "path", "at"),
    [
        ("GET", "/tallies/%00", "path"),
        ("GET", "/tallies/a%00b?x=1", "path"),
        ("GET", "/states?order_id=%00", "query"),
        ("GET", "/healthz?%00=1", "query"),
        ("POST", "/raises?x=%00", "query"),
    ],
)
async def test_the_character_that_postgresql_cannot_keep_is_refused_everywhere(
    stage: Stage, http: ClientSession, method: str, path: str, at: str
) -> None:
    url = await stage.serve(await stage.start())
    async with http.request(method, URL(f"{url}{path}", encoded=True)) as answer:
        assert (answer.status, answer.content_type) == (422, "application/problem+json")
        problem = await answer.json(content_type=None)
    assert problem["errors"] == [{"at": at, "problem": "the character U+0000 is allowed nowhere"}]


def test_a_route_that_would_take_a_body_without_these_checks_is_noticed() -> None:
    class Wanted(BaseModel):
        by: int

    async def place(wanted: Wanted) -> None:
        """Somebody forgot the route class."""

    settings = ServiceSettings(broker_url="amqp://nowhere", database_url="postgresql://", http_port=1)
    careless = APIRouter(dependencies=[PUBLIC])
    careful = APIRouter(dependencies=[PUBLIC], route_class=StrictRoute)
    careless.post("/orders")(place)
    careful.post("/orders")(place)
    create_app("careful", "", settings, mock.Mock(), [careful])
    with pytest.raises(TypeError, match="/orders"):
        create_app("careless", "", settings, mock.Mock(), [careless])
