"""What a party makes of everything that a connection can bring, byte by byte."""

import asyncio
import gzip
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretStr

from events.outbound.dispatcher import CallFailed
from events.outbound.http_party import HttpParty, Reply
from events.telemetry import tracing
from tests.gateways.http_server import CLOSE, FINE, LIMIT_BYTES, Server, listening
from tests.gateways.world import in_short, make_certificate
from tests.tools import OPENSSL, needs

ANSWER = Reply("party", 200, b"fine")
UNREACHABLE, LOST = ("party_unreachable", False), ("party_answer_lost", True)


@pytest.fixture
async def server(unused_tcp_port: int) -> AsyncIterator[Server]:
    server = Server(port=unused_tcp_port)
    async with listening(server):
        yield server


async def get(party: HttpParty) -> Reply:
    return await party.get("/thing")


async def post(party: HttpParty) -> Reply:
    return await party.post("/thing", {}, idempotency_key="one")


async def failure_of(asking: Awaitable[Reply]) -> tuple[str, bool]:
    """Why it failed, and whether it may be done all the same."""
    with pytest.raises(CallFailed) as failed:
        await asking
    return in_short([failed.value])[0]


def lines_of(asked: bytes) -> tuple[bytes, set[bytes], bytes]:
    """A request: its first line, its headers in whatever order, its body."""
    head, _, body = asked.partition(b"\r\n\r\n")
    first, *headers = head.split(b"\r\n")
    assert len(headers) == len(set(headers))
    return first, set(headers), body


async def test_what_is_sent(server: Server) -> None:
    party = server.party_at(f"http://127.0.0.1:{server.port}/a%20party/")
    await party.post("/deeds", {"a": 1}, idempotency_key="charge:1")
    await party.get("/deeds", last_part="charge:1")
    same = {
        f"Host: 127.0.0.1:{server.port}".encode(),
        b"User-Agent: murmuration",
        b"Accept: application/json",
        b"Accept-Encoding: identity",
    }
    charge = {b"Idempotency-Key: charge:1", b"Content-Type: application/json", b"Content-Length: 7"}
    assert [lines_of(asked) for asked in server.asked] == [
        (b"POST /a%20party/deeds HTTP/1.1", same | charge, b'{"a":1}'),
        (b"GET /a%20party/deeds/charge%3A1 HTTP/1.1", same, b""),
    ]
    assert server.connections == 1


async def test_credentials_of_the_url_are_sent(server: Server) -> None:
    await get(server.party_at(f"http://me:se%20cret@127.0.0.1:{server.port}"))
    assert b"\r\nAuthorization: Basic bWU6c2UgY3JldA==\r\n" in server.asked[0]
    assert f"\r\nHost: 127.0.0.1:{server.port}\r\n".encode() in server.asked[0]


async def test_what_a_provider_of_payments_asks_for(server: Server) -> None:
    """A bearer token, headers of its own, a form with names in brackets, a search."""
    party = server.party(bearer_token=SecretStr("sk_test_1"), headers={"Stripe-Version": "2026-01-28"})
    fields = [("amount", "1250"), ("metadata[order]", "a b&c=ü"), ("expand[]", "x"), ("expand[]", "y")]
    await party.post_form("/v1/intents", fields, idempotency_key="k", headers={"Stripe-Account": "acct_1"})
    await party.get("/v1/intents/search", query={"query": "metadata['order']:'1'", "limit": "1"})
    await party.request("DELETE", "/v1/intents/1")
    (charge, charge_headers, form), (search, search_headers, _), (cancel, cancel_headers, _) = map(
        lines_of, server.asked
    )
    assert charge == b"POST /party/v1/intents HTTP/1.1"
    assert form == b"amount=1250&metadata%5Border%5D=a+b%26c%3D%C3%BC&expand%5B%5D=x&expand%5B%5D=y"
    assert charge_headers >= {
        b"Content-Type: application/x-www-form-urlencoded",
        b"Idempotency-Key: k",
        b"Stripe-Account: acct_1",
    }
    asks = b"GET /party/v1/intents/search?query=metadata%5B%27order%27%5D%3A%271%27&limit=1 HTTP/1.1"
    assert (search, cancel) == (asks, b"DELETE /party/v1/intents/1 HTTP/1.1")
    for headers in (charge_headers, search_headers, cancel_headers):
        assert headers >= {b"Authorization: Bearer sk_test_1", b"Stripe-Version: 2026-01-28"}


async def test_a_span_says_where_but_neither_who_nor_what(server: Server) -> None:
    exporter = InMemorySpanExporter()
    tracing.start_tracing("toy", exporter)
    try:
        party = server.party_at(f"http://me:secret@127.0.0.1:{server.port}/party?key=hidden")
        with tracing.work("call", None) as span, span.current():
            await party.request("GET", "/search", query={"email": "ada@shop.example"})
        with tracing.work("call", None) as asking, asking.current():
            await party.get("/customers", last_part="cust_ada")
        tracing.flush_traces()
    finally:
        tracing.stop_tracing()
    [found, looked_up] = exporter.get_finished_spans()
    assert (looked_up.attributes or {})["url.full"] == f"http://127.0.0.1:{server.port}/party/customers/..."
    assert server.asked[1].startswith(b"GET /party/customers/cust_ada HTTP/1.1\r\n")
    assert dict(found.attributes or {}) == {
        "http.request.method": "GET",
        "url.full": f"http://127.0.0.1:{server.port}/party/search",
        "http.response.status_code": 200,
    }
    assert f"\r\ntraceparent: {span.traceparent}\r\n".encode() in server.asked[0]
    assert server.asked[0].startswith(b"GET /party/search?email=ada%40shop.example HTTP/1.1\r\n")


@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH"])
async def test_a_change_whose_answer_is_lost_may_be_done_and_is_not_sent_again(
    server: Server, method: str
) -> None:
    server.answers = [[FINE], [CLOSE], [FINE]]
    party = server.party()
    assert await party.request(method, "/thing") == ANSWER
    assert await failure_of(party.request(method, "/thing", content=b"{}")) == LOST
    assert len(server.asked) == 2


@pytest.mark.parametrize("value", ["one\r\nX-Other: 1", "one\n", "\x00"])
async def test_nothing_breaks_out_of_a_header(server: Server, value: str) -> None:
    party = server.party()
    with pytest.raises(ValueError, match="Idempotency-Key"):
        await party.request("GET", "/thing", headers={"Idempotency-Key": value})
    with pytest.raises(ValueError, match="Idempotency-Key"):
        await party.post("/thing", {}, idempotency_key=value)
    with pytest.raises(ValueError, match="Authorization") as refused:
        server.party(bearer_token=SecretStr(f"secret{value}"))
    assert "secret" not in str(refused.value)
    assert server.asked == []


async def test_cookies_and_redirects_lead_nowhere(server: Server) -> None:
    sent = b"HTTP/1.1 303 See Other\r\nLocation: /party/other\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"
    server.answers = [[sent]]
    party = server.party()
    assert [(await post(party)).http_status, (await get(party)).http_status] == [303, 303]
    assert len(server.asked) == 2
    assert b"cookie" not in server.asked[1].lower()


async def test_the_environment_names_no_proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    assert await post(server.party()) == ANSWER


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nfi\r\n2\r\nne\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "answer", "kept"),
    [
        ([FINE], ANSWER, True),
        ([bytes([byte]) for byte in FINE], ANSWER, True),
        ([CHUNKED], ANSWER, True),
        ([bytes([byte]) for byte in CHUNKED], ANSWER, True),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], Reply("party", 204, b""), True),
        ([b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"], Reply("party", 404, b""), True),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", FINE], ANSWER, True),
        ([b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + FINE], ANSWER, True),
        ([b"HTTP/1.1 200 OK\r\n\r\nfi", b"ne", CLOSE], ANSWER, False),
        ([b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nfine"], ANSWER, False),
        ([FINE.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")], ANSWER, False),
        # What comes behind an answer is never taken for the next one.
        ([FINE + b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"], ANSWER, False),
        ([FINE + b"HTTP/1.1 500 Oh\r\n"], ANSWER, True),
    ],
)
async def test_answers(server: Server, sent: list[bytes | None], answer: Reply, kept: bool) -> None:
    server.answers = [sent, [FINE]]
    party = server.party()
    assert await post(party) == answer
    assert await post(party) == ANSWER
    assert server.connections == (1 if kept else 2)


async def test_a_failure_of_the_other_side_ends_no_connection(server: Server) -> None:
    server.answers = [[b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"], [FINE]]
    party = server.party()
    assert await failure_of(post(party)) == ("party_answered_503", True)
    assert await post(party) == ANSWER
    assert server.connections == 1


def limited(more: bytes = b"Retry-After: 1\r\n") -> list[bytes | None]:
    return [b"HTTP/1.1 429 Too many\r\nContent-Length: 0\r\n" + more + b"\r\n"]


async def test_a_limit_that_is_over_soon_costs_no_attempt(server: Server) -> None:
    server.answers = [limited(), limited(), [FINE]]
    began = time.monotonic()
    assert await post(server.party(call_limit_wait_seconds=2.5)) == ANSWER
    assert time.monotonic() - began >= 2
    assert len(server.asked) == 3
    assert lines_of(server.asked[0]) == lines_of(server.asked[2])


@pytest.mark.parametrize(
    ("answers", "asked", "asked_seconds"),
    [
        # One pause is time enough, a second one is not.
        ([limited(), limited(), [FINE]], 2, 1),
        ([limited(b"Retry-After: 2\r\n"), [FINE]], 1, 2),
        ([limited(b""), [FINE]], 1, 0),
        ([[b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n"], [FINE]], 1, 1),
    ],
)
async def test_what_lasts_longer_is_for_another_attempt(
    server: Server, answers: list[list[bytes | None]], asked: int, asked_seconds: float
) -> None:
    server.answers = answers
    with pytest.raises(CallFailed) as failed:
        await post(server.party(call_limit_wait_seconds=1.5))
    assert (len(server.asked), failed.value.wait_seconds) == (asked, asked_seconds)


@pytest.mark.parametrize(
    "sent",
    [
        [CLOSE],
        [FINE[:10], CLOSE],
        [FINE[:-1], CLOSE],
        [CHUNKED[:-3], CLOSE],
        [b"SSH-2.0-OpenSSH_9.2\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nfine"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\nfine"],
        [b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"],
        [FINE + b"oh"],
        # A head without end.
        [b"HTTP/1.1 200 OK\r\n", *[b"X-More: more\r\n"] * 100],
        [b"HTTP/1.1 200 OK\r\nX-More: ", *[b"more" * 100] * 100],
    ],
)
async def test_what_is_no_answer_is_lost(server: Server, sent: list[bytes | None]) -> None:
    server.answers = [sent, [FINE]]
    party = server.party()
    assert await failure_of(post(party)) == LOST
    assert await post(party) == ANSWER
    assert len(server.asked) == 2


def packed(content: bytes) -> bytes:
    """The answer of a server that packs what nobody asked it to pack."""
    body = gzip.compress(content)
    return b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize(
    "sent",
    [
        [b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2_000],
        [b"HTTP/1.1 201 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"64\r\n" + b"x" * 100 + b"\r\n"] * 20],
        [b"HTTP/1.1 503 No\r\n\r\n", *[b"x" * 100] * 20],
        # A thousand times larger than it seems.
        [packed(b"x" * 50_000_000)],
    ],
    ids=["length", "chunked", "until the end", "packed"],
)
async def test_an_answer_without_end_is_cut_off(server: Server, sent: list[bytes | None]) -> None:
    server.answers = [sent, [FINE]]
    party = server.party()
    assert await failure_of(post(party)) == ("party_answer_too_large", True)
    assert await post(party) == ANSWER


async def test_an_answer_as_large_as_may_be_is_read_also_when_packed(server: Server) -> None:
    server.answers = [
        [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * LIMIT_BYTES],
        [packed(b"x" * LIMIT_BYTES)],
    ]
    party = server.party()
    assert [(await post(party)).content, (await post(party)).content] == [b"x" * LIMIT_BYTES] * 2


async def test_as_many_at_once_as_connections(server: Server) -> None:
    party = server.party(call_concurrency=3)
    answers = await asyncio.gather(*[post(party) for _ in range(50)])
    assert answers == [ANSWER] * 50
    assert server.connections <= 3


@pytest.mark.parametrize("how_long", [0.3, 4], ids=["too late", "cancelled"])
async def test_a_late_answer_is_nobody_elses(server: Server, how_long: float) -> None:
    server.answers = [[FINE[:-4]], [FINE]]
    party = server.party(call_concurrency=1, call_timeout_seconds=how_long)
    if how_long > 1:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await post(party)
    else:
        assert await failure_of(post(party)) == ("party_timeout", True)
    server.writers[0].write(b"late")
    assert await post(party) == ANSWER
    assert server.connections == 2


@pytest.mark.parametrize("ask", [get, post])
async def test_what_nobody_asked_for_ends_the_connection(
    server: Server, ask: Callable[[HttpParty], Awaitable[Reply]]
) -> None:
    party = server.party()
    await ask(party)
    server.writers[0].write(FINE.replace(b"fine", b"evil"))
    await received(server)
    assert await ask(party) == ANSWER
    assert server.connections == 2


async def received(server: Server) -> None:
    """Let all that the server sent arrive: what it sends later to somebody else does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    await reader.readuntil(b"fine")
    server.connections -= 1
    writer.close()


async def test_many_spoilt_connections_are_all_left(server: Server) -> None:
    party = server.party()
    await asyncio.gather(*[post(party) for _ in range(4)])
    spoilt = len(server.writers)
    for writer in server.writers:
        writer.write(FINE.replace(b"fine", b"evil"))
    await received(server)
    assert [await post(party), await get(party)] == [ANSWER] * 2
    assert server.connections == spoilt + 1


async def test_who_only_asks_asks_again_on_a_fresh_connection(server: Server) -> None:
    server.answers = [[FINE], [CLOSE], [FINE]]
    party = server.party()
    await get(party)
    assert await get(party) == ANSWER
    assert (len(server.asked), server.connections) == (3, 2)


async def test_what_may_be_done_is_not_sent_twice(server: Server) -> None:
    server.answers = [[FINE], [CLOSE], [FINE]]
    party = server.party()
    await post(party)
    assert await failure_of(post(party)) == LOST
    assert len(server.asked) == 2


async def test_a_fresh_connection_that_ends_is_not_asked_for_ever(server: Server) -> None:
    server.answers = [[CLOSE]]
    assert await failure_of(get(server.party())) == ("party_answer_lost", False)
    # aiohttp does not tell a fresh connection from one that was idle, and tries once more.
    assert len(server.asked) == 2


async def test_a_connection_idle_for_long_is_not_trusted(server: Server) -> None:
    party = server.party(idle_connection_seconds=0.1)
    await post(party)
    await asyncio.wait_for(server.ended.wait(), 5)
    await post(party)
    assert server.connections == 2


async def test_nobody_there(unused_tcp_port: int) -> None:
    server = Server(port=unused_tcp_port)
    assert await failure_of(post(server.party())) == UNREACHABLE
    await server.parties.aclose()


async def test_no_such_host(server: Server) -> None:
    assert await failure_of(post(server.party_at("http://nobody.invalid"))) == UNREACHABLE


async def test_one_address_of_a_host_is_enough(server: Server) -> None:
    """Where `localhost` is also ::1, nobody listens there."""
    assert await post(server.party_at(f"http://localhost:{server.port}")) == ANSWER


async def test_closing_ends_the_connections(server: Server) -> None:
    party = server.party()
    await post(party)
    await party.close()
    await server.ended.wait()
    assert await post(party) == ANSWER


@needs(OPENSSL)
async def test_tls_is_checked(unused_tcp_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, tls = await make_certificate(tmp_path)
    server = Server(port=unused_tcp_port)
    async with listening(server, tls):
        assert await failure_of(post(server.party_at(f"https://localhost:{server.port}"))) == UNREACHABLE
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        trusting = server.party_at(f"https://localhost:{server.port}")
        assert [await post(trusting), await post(trusting)] == [ANSWER] * 2
        assert server.connections == 1
        assert await failure_of(post(server.party_at(f"https://127.0.0.1:{server.port}"))) == UNREACHABLE
