"""What FastAPI would do for an endpoint that is called without it: bounds, problems, documents, measures."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from unittest import mock
from uuid import uuid4

import pytest
from aiohttp import ClientSession
from fastapi import APIRouter, Request, Response

from events.http.application import Admin, create_app
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
    assert "order_id" in described["requestBody"]["content"]["application/json"]["schema"]["properties"]
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
    assert len(stage.heard) == await stage.size("tallies") == 3


async def test_more_requests_at_a_time_than_allowed_are_asked_to_come_back(
    stage: Stage, http: ClientSession
) -> None:
    """But not those that ask whether it is alive: who does not hear that may end the process."""
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


def test_nothing_that_asks_for_a_token_goes_past_the_asking() -> None:
    router = APIRouter(dependencies=[Admin])

    @router.post("/secrets")
    async def secret(_: Request) -> Response:
        return Response()

    settings = ServiceSettings(broker_url="amqp://nowhere", database_url="postgresql://", http_port=1)
    with pytest.raises(TypeError, match="/secrets"):
        create_app("careless", "", settings, mock.Mock(), [router], straight=[secret])
