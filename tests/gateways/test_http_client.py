"""What the client makes of everything that a connection can bring, byte by byte."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext

import pytest

from events.outbound import http_client
from events.outbound.http_client import Answer, AnswerLost, AnswerTooLarge, HttpClient, Unreachable
from tests.tools import OPENSSL, needs

LIMIT_BYTES = 1_000
FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"
CLOSE = None
"""Among what a server says: it ends the connection."""


@dataclass
class Server:
    """Says what it is told to, and notes what it is asked and on how many connections."""

    answers: list[list[bytes | None]] = field(default_factory=lambda: [[FINE]])
    """What it says to each request; the last one to all that follow."""
    asked: list[bytes] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Some client closed its connection."""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = [
                    int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")
                ]
                self.asked.append(head + await reader.readexactly(length[0] if length else 0))
                for part in self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]:
                    if part is CLOSE:
                        writer.close()
                        return
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            self.ended.set()

    def client(self, path: str = "/party", **changes: int) -> HttpClient:
        given = {"connections": 4, "connect_timeout_seconds": 2, "answer_limit_bytes": LIMIT_BYTES, **changes}
        return HttpClient(f"http://127.0.0.1:{self.port}{path}", **given)


@pytest.fixture
async def server(unused_tcp_port: int) -> AsyncIterator[Server]:
    server = Server(port=unused_tcp_port)
    async with listening(server):
        yield server


@asynccontextmanager
async def listening(server: Server, tls: SSLContext | None = None) -> AsyncIterator[None]:
    listener = await asyncio.start_server(server.talk, "127.0.0.1", server.port, ssl=tls)
    try:
        yield
    finally:
        listener.close()
        for writer in server.writers:
            writer.close()


async def get(client: HttpClient) -> Answer:
    return await client.request("GET", "/thing", {})


async def post(client: HttpClient) -> Answer:
    return await client.request("POST", "/thing", {"Idempotency-Key": "one"}, b"{}")


async def test_what_is_sent(server: Server) -> None:
    client = server.client("/a%20party/")
    await client.request("POST", "/deeds", {"Idempotency-Key": "charge:1"}, b'{"a":1}')
    await client.request("GET", "/deeds/charge%3A1", {})
    host = f"Host: 127.0.0.1:{server.port}\r\n".encode()
    same = b"User-Agent: murmuration\r\nAccept: application/json\r\nAccept-Encoding: identity\r\n"
    assert server.asked == [
        b"POST /a%20party/deeds HTTP/1.1\r\n" + host + same + b"Idempotency-Key: charge:1\r\n"
        b'Content-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":1}',
        b"GET /a%20party/deeds/charge%3A1 HTTP/1.1\r\n" + host + same + b"\r\n",
    ]
    assert server.connections == 1


async def test_credentials_of_the_url_are_sent(server: Server) -> None:
    client = HttpClient(
        f"http://me:se%20cret@127.0.0.1:{server.port}",
        connections=1,
        connect_timeout_seconds=1,
        answer_limit_bytes=LIMIT_BYTES,
    )
    await get(client)
    assert b"\r\nAuthorization: Basic bWU6c2UgY3JldA==\r\n" in server.asked[0]
    assert f"\r\nHost: 127.0.0.1:{server.port}\r\n".encode() in server.asked[0]


@pytest.mark.parametrize("value", ["one\r\nX-Other: 1", "one\n", "\x00"])
async def test_nothing_breaks_out_of_a_header(server: Server, value: str) -> None:
    with pytest.raises(ValueError, match="Idempotency-Key"):
        await server.client().request("GET", "/thing", {"Idempotency-Key": value})
    assert server.asked == []


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nfi\r\n2\r\nne\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("said", "answer", "kept"),
    [
        ([FINE], Answer(200, b"fine"), True),
        ([bytes([byte]) for byte in FINE], Answer(200, b"fine"), True),
        ([CHUNKED], Answer(200, b"fine"), True),
        ([bytes([byte]) for byte in CHUNKED], Answer(200, b"fine"), True),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], Answer(204, b""), True),
        ([b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"], Answer(503, b""), True),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", FINE], Answer(200, b"fine"), True),
        ([b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + FINE], Answer(200, b"fine"), True),
        ([b"HTTP/1.1 200 OK\r\n\r\nfi", b"ne", CLOSE], Answer(200, b"fine"), False),
        ([b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nfine"], Answer(200, b"fine"), False),
        ([FINE.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")], Answer(200, b"fine"), False),
        # What comes behind an answer is never taken for the next one.
        ([FINE + b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"], Answer(200, b"fine"), False),
        ([FINE + b"HTTP/1.1 500 Oh\r\n"], Answer(200, b"fine"), False),
        ([FINE + b"oh"], Answer(200, b"fine"), False),
    ],
)
async def test_answers(server: Server, said: list[bytes | None], answer: Answer, kept: bool) -> None:
    server.answers = [said, [FINE]]
    client = server.client()
    assert await post(client) == answer
    assert await post(client) == Answer(200, b"fine")
    assert server.connections == (1 if kept else 2)


@pytest.mark.parametrize(
    "said",
    [
        [CLOSE],
        [FINE[:10], CLOSE],
        [FINE[:-1], CLOSE],
        [CHUNKED[:-3], CLOSE],
        [b"SSH-2.0-OpenSSH_9.2\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nfine"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\nfine"],
        [b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"],
    ],
)
async def test_what_is_no_answer_is_lost(server: Server, said: list[bytes | None]) -> None:
    server.answers = [said, [FINE]]
    client = server.client()
    with pytest.raises(AnswerLost):
        await post(client)
    assert await post(client) == Answer(200, b"fine")
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2_000], 200),
        (
            [
                b"HTTP/1.1 201 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                *[b"64\r\n" + b"x" * 100 + b"\r\n"] * 20,
            ],
            201,
        ),
        ([b"HTTP/1.1 503 No\r\n\r\n", *[b"x" * 100] * 20], 503),
        ([b"HTTP/1.1 200 OK\r\n", *[b"X-More: more\r\n"] * 100], 0),
    ],
)
async def test_an_answer_without_end_is_cut_off(
    server: Server, said: list[bytes | None], status: int
) -> None:
    server.answers = [said, [FINE]]
    client = server.client()
    with pytest.raises(AnswerTooLarge) as failed:
        await post(client)
    assert failed.value.status == status
    assert await post(client) == Answer(200, b"fine")


async def test_as_many_at_once_as_connections(server: Server) -> None:
    client = server.client(connections=3)
    answers = await asyncio.gather(*[post(client) for _ in range(50)])
    assert answers == [Answer(200, b"fine")] * 50
    assert server.connections <= 3


async def test_a_late_answer_is_nobody_elses(server: Server) -> None:
    server.answers = [[FINE[:-4]], [FINE]]
    client = server.client(connections=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await post(client)
    server.writers[0].write(b"late")
    assert await post(client) == Answer(200, b"fine")
    assert server.connections == 2


@pytest.mark.parametrize("ask", [get, post])
async def test_what_nobody_asked_for_ends_the_connection(
    server: Server, ask: Callable[[HttpClient], Awaitable[Answer]]
) -> None:
    client = server.client()
    await ask(client)
    server.writers[0].write(FINE.replace(b"fine", b"evil"))
    await server.ended.wait()
    assert await ask(client) == Answer(200, b"fine")
    assert server.connections == 2


async def test_who_only_asks_asks_again_on_a_fresh_connection(server: Server) -> None:
    server.answers = [[FINE], [CLOSE], [FINE]]
    client = server.client()
    await get(client)
    assert await get(client) == Answer(200, b"fine")
    assert (len(server.asked), server.connections) == (3, 2)


async def test_what_may_be_done_is_not_sent_twice(server: Server) -> None:
    server.answers = [[FINE], [CLOSE], [FINE]]
    client = server.client()
    await post(client)
    with pytest.raises(AnswerLost):
        await post(client)
    assert len(server.asked) == 2


async def test_a_fresh_connection_that_ends_is_not_asked_for_ever(server: Server) -> None:
    server.answers = [[CLOSE]]
    with pytest.raises(AnswerLost):
        await get(server.client())
    assert len(server.asked) == 1


async def test_a_connection_idle_for_long_is_not_trusted(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = server.client()
    await post(client)
    monkeypatch.setattr(http_client, "IDLE_SECONDS", -1.0)
    await post(client)
    assert server.connections == 2


async def test_nobody_there(unused_tcp_port: int) -> None:
    with pytest.raises(Unreachable):
        await post(Server(port=unused_tcp_port).client())


async def test_closing_ends_the_connections(server: Server) -> None:
    client = server.client()
    await post(client)
    client.close()
    await server.ended.wait()
    assert await post(client) == Answer(200, b"fine")


@needs(OPENSSL)
async def test_tls_is_checked(unused_tcp_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    made += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    await asyncio.to_thread(subprocess.run, made, check=True, capture_output=True)
    tls = SSLContext(PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    server = Server(port=unused_tcp_port)

    def client(host: str) -> HttpClient:
        return HttpClient(
            f"https://{host}:{server.port}",
            connections=1,
            connect_timeout_seconds=2,
            answer_limit_bytes=LIMIT_BYTES,
        )

    async with listening(server, tls):
        with pytest.raises(Unreachable):
            await post(client("localhost"))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        trusting = client("localhost")
        assert [await post(trusting), await post(trusting)] == [Answer(200, b"fine")] * 2
        assert server.connections == 1
        with pytest.raises(Unreachable):
            await post(client("127.0.0.1"))
