"""The HTTP side of a process: problem details, bounds, the admin's token, and an honest readiness."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from aiohttp import ClientResponse, ClientSession

from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage
from tests.runtime.toy.facts import Bumped
from tests.runtime.toy.service import TOY

MAX_BYTES = 1_000


@pytest.fixture
async def http() -> AsyncIterator[ClientSession]:
    async with ClientSession() as session:
        yield session


async def problem_of(answer: ClientResponse) -> dict[str, Any]:
    """An RFC 9457 body, after a look at its form."""
    assert answer.content_type == "application/problem+json"
    problem: dict[str, Any] = await answer.json(content_type=None)
    assert problem["status"] == answer.status
    assert problem["type"] == "about:blank"
    assert problem["title"]
    assert problem["detail"]
    return problem


async def test_a_command_over_http(stage: Stage, http: ClientSession) -> None:
    url = await stage.serve(await stage.start())
    order = uuid4()
    async with http.post(f"{url}/bumps/{order}", json={"by": 3}) as answer:
        assert (answer.status, await answer.json()) == (200, {"count": 3})
    async with http.get(f"{url}/tallies/{order}") as answer:
        assert (answer.status, await answer.json()) == (200, {"count": 3})


async def test_bad_requests_get_a_problem_that_says_what_is_wrong(stage: Stage, http: ClientSession) -> None:
    url = await stage.serve(await stage.start())
    order = uuid4()
    async with http.post(f"{url}/bumps/{order}", json={"by": "many"}) as answer:
        assert answer.status == 422
        assert (await problem_of(answer))["errors"][0]["at"] == "body.by"
    async with http.post(f"{url}/bumps/seven", json={}) as answer:
        assert answer.status == 422
        assert (await problem_of(answer))["errors"][0]["at"] == "path.order_id"
    async with http.post(
        f"{url}/bumps/{order}", data=b"{", headers={"Content-Type": "application/json"}
    ) as answer:
        assert answer.status == 422
        await problem_of(answer)
    async with http.get(f"{url}/nowhere") as answer:
        assert answer.status == 404
        await problem_of(answer)
    async with http.get(f"{url}/tallies/{order}") as answer:
        assert answer.status == 404
        assert str(order) in (await problem_of(answer))["detail"]
    async with http.delete(f"{url}/bumps/{order}") as answer:
        assert answer.status == 405
        await problem_of(answer)


async def test_what_nobody_expected_is_a_problem_too(stage: Stage, http: ClientSession) -> None:
    url = await stage.serve(await stage.start())
    async with http.post(f"{url}/bumps/{uuid4()}", json={"by": 0}) as answer:
        assert answer.status == 500
        assert "nothing to count" not in str(await problem_of(answer))


async def test_a_connection_outlives_what_nobody_expected(stage: Stage) -> None:
    """A client that sends its next request on it gets an answer to that, too."""
    url = urlsplit(await stage.serve(await stage.start()))
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    body = b'{"by": 0}'
    request = (
        f"POST /bumps/{uuid4()} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    async with asyncio.timeout(10):
        for _ in range(3):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 500")
            found = re.search(rb"content-length: (\d+)", head)
            assert found is not None
            await reader.readexactly(int(found[1]))
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
async def test_a_body_has_a_bound(stage: Stage, http: ClientSession, announced: bool) -> None:
    url = await stage.serve(await stage.start(), max_request_bytes=MAX_BYTES)
    address = f"{url}/bumps/{uuid4()}"
    headers = {"Content-Type": "application/json"}

    async def in_chunks(body: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(body), 100):
            yield body[start : start + 100]

    def body_of(size: int) -> Any:
        body = b'{"note": "%s"}' % (b"x" * (size - 12))
        assert len(body) == size
        return body if announced else in_chunks(body)

    async with http.post(address, data=body_of(MAX_BYTES), headers=headers) as answer:
        assert answer.status == 200
    async with http.post(address, data=body_of(MAX_BYTES + 1), headers=headers) as answer:
        assert answer.status == 413
        assert str(MAX_BYTES) in (await problem_of(answer))["detail"]
    async with http.post(address, data=body_of(50 * MAX_BYTES), headers=headers) as answer:
        assert answer.status == 413


async def test_admin_endpoints_are_closed_without_a_token(stage: Stage, http: ClientSession) -> None:
    url = await stage.serve(await stage.start())
    for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer None"}):
        async with http.post(f"{url}/secrets", headers=headers) as answer:
            assert answer.status == 403
            assert "MURMURATION_ADMIN_TOKEN" in (await problem_of(answer))["detail"]


async def test_admin_endpoints_open_to_the_token_alone(stage: Stage, http: ClientSession) -> None:
    url = await stage.serve(await stage.start(), admin_token="let-me-in")
    for wrong in (
        {},
        {"Authorization": "Bearer let-me-out"},
        {"Authorization": "Basic let-me-in"},
        {"Authorization": "Bearer lét"},
    ):
        async with http.post(f"{url}/secrets", headers=wrong) as answer:
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            await problem_of(answer)
    async with http.post(f"{url}/secrets", headers={"Authorization": "Bearer let-me-in"}) as answer:
        assert (answer.status, await answer.json()) == (200, {"secret": "told"})


async def test_too_much_at_once_is_refused_with_a_time_to_come_back(
    stage: Stage, http: ClientSession
) -> None:
    host = await stage.start(max_pending_commands=1)
    url = await stage.serve(host)
    order = uuid4()
    await stage.say(Bumped(order_id=order))
    await eventually(lambda: stage.published(order))
    async with stage.holding(order):
        first = asyncio.create_task(http.post(f"{url}/bumps/{order}", json={}).__aenter__())
        await eventually(stage.blocked)
        async with http.post(f"{url}/bumps/{order}", json={}) as answer:
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) > 0
            await problem_of(answer)
    assert (await first).status == 200


async def test_a_late_answer_is_a_503_that_asks_for_the_same_key(stage: Stage, http: ClientSession) -> None:
    host = await stage.start(command_timeout_seconds=0.2)
    url = await stage.serve(host)
    order = uuid4()
    await stage.say(Bumped(order_id=order))
    await eventually(lambda: stage.published(order))
    async with stage.holding(order), http.post(f"{url}/bumps/{order}", json={}) as answer:
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert "Idempotency-Key" in (await problem_of(answer))["detail"]


async def readiness(http: ClientSession, url: str) -> tuple[int, dict[str, Any]]:
    async with http.get(f"{url}/readyz") as answer:
        return answer.status, await answer.json()


async def is_503_for(http: ClientSession, url: str, part: str) -> bool:
    status, parts = await readiness(http, url)
    return status == 503 and parts["status"] == "not ready" and not parts[part]


async def is_200(http: ClientSession, url: str) -> bool:
    return (await readiness(http, url))[0] == 200


async def test_ready_means_that_every_part_works(stage: Stage, http: ClientSession) -> None:
    url = await stage.serve(await stage.start())
    status, parts = await readiness(http, url)
    assert status == 200
    assert parts == {"status": "ready", "database": True, "broker": True, "consumer": True, "runtime": True}


async def test_not_ready_while_the_broker_is_away(stage: Stage, http: ClientSession) -> None:
    proxy = await stage.proxy_broker()
    url = await stage.serve(await stage.start(broker_url=proxy.url(stage.broker_url)))
    proxy.cut()
    await eventually(lambda: is_503_for(http, url, "broker"))
    await eventually(lambda: is_503_for(http, url, "consumer"))
    async with http.get(f"{url}/healthz") as answer:
        assert answer.status == 200
    proxy.restore()
    await eventually(lambda: is_200(http, url))


@pytest.mark.parametrize("how", ["cut", "freeze"])
async def test_not_ready_while_the_database_is_away(stage: Stage, http: ClientSession, how: str) -> None:
    proxy = await stage.proxy_database()
    host = await stage.start(database_url=proxy.url(stage.database_url), database_timeout_seconds=0.5)
    url = await stage.serve(host)
    if how == "cut":
        proxy.cut()
    else:
        proxy.freeze()
    await asyncio.wait_for(eventually(lambda: is_503_for(http, url, "database")), timeout=5)
    async with http.get(f"{url}/healthz") as answer:
        assert answer.status == 200
    if how == "cut":
        async with http.get(f"{url}/tallies/{uuid4()}") as answer:
            assert answer.status == 503
            assert "database" in (await problem_of(answer))["detail"]
    proxy.restore()
    proxy.thaw()
    await eventually(lambda: is_200(http, url))


async def test_not_ready_once_the_broker_cancelled_the_consumer(stage: Stage, http: ClientSession) -> None:
    proxy = await stage.proxy_broker()
    url = await stage.serve(await stage.start(broker_url=proxy.url(stage.broker_url)))
    await stage.channel.queue_delete(TOY.queue)
    await eventually(lambda: is_503_for(http, url, "consumer"))
    await stage.declare_again()
    proxy.drop_connections()
    await eventually(lambda: is_200(http, url))
    order = uuid4()
    await stage.say(Bumped(order_id=order))
    await eventually(lambda: stage.published(order))


async def test_an_instance_alone_is_not_ready_because_another_consumes(
    stage: Stage, http: ClientSession
) -> None:
    await stage.start()
    proxy = await stage.proxy_broker()
    url = await stage.serve(await stage.start(broker_url=proxy.url(stage.broker_url)))
    proxy.cut()
    await eventually(lambda: is_503_for(http, url, "consumer"))


async def test_not_ready_before_the_tables_are_there(stage: Stage, http: ClientSession) -> None:
    await stage.rows("DROP SEQUENCE instance_ids")
    url = await stage.serve(await stage.begin())
    await eventually(lambda: is_503_for(http, url, "runtime"))


async def test_documents_are_there(stage: Stage, http: ClientSession) -> None:
    url = await stage.serve(await stage.start())
    async with http.get(f"{url}/openapi.json") as answer:
        assert "/bumps/{order_id}" in (await answer.json())["paths"]
    async with http.get(f"{url}/docs") as answer:
        assert answer.status == 200


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_a_document_needs_nothing_from_elsewhere(stage: Stage, http: ClientSession, path: str) -> None:
    url = await stage.serve(await stage.start())
    async with http.get(f"{url}{path}") as answer:
        assert answer.status == 200
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        page = await answer.text()
    assert "://" not in page
    assert "/openapi.json" in page
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert loaded
    for part in loaded:
        async with http.get(url + part) as answer:
            assert answer.status == 200
            assert len(await answer.read()) > 1_000


async def test_the_document_names_every_status_and_its_form(stage: Stage, http: ClientSession) -> None:
    url = await stage.serve(await stage.start())
    async with http.get(f"{url}/openapi.json") as answer:
        document = await answer.json()

    def statuses(path: str, method: str) -> set[str]:
        return set(document["paths"][path][method]["responses"])

    assert statuses("/tallies/{order_id}", "get") == {"200", "422", "503"}
    assert statuses("/raises", "post") == {"200", "413", "415", "422", "503"}
    assert statuses("/secrets", "post") == {"200", "401", "403", "422", "503"}
    assert not {"HTTPValidationError", "ValidationError"} & document["components"]["schemas"].keys()
    reference = {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400 and path != "/readyz":
                    assert response["content"] == {"application/problem+json": reference}
    model = document["components"]["schemas"]["ProblemDetails"]
    assert {"type", "title", "status", "detail"} == set(model["required"])
    assert model["properties"]["errors"]["items"] == {"$ref": "#/components/schemas/Fault"}
