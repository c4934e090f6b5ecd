"""A mail server in trouble is left alone; one that has something against a mail is not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from events.outbound.dispatcher import CallFailed
from notification_svc.mail import Mail, SmtpMailServer
from tests.gateways.world import mail_server_that

MAIL = Mail("ada@shop.example", "Hello", "How are you?")
GREETING, FINE, GO_AHEAD = b"220 here", b"250 fine", b"354 go ahead"


TOGETHER = {b"EHLO": b"250-here\r\n250 PIPELINING"}
"""Of a server that takes several commands together."""

both_ways = pytest.mark.parametrize("extensions", [{}, TOGETHER], ids=["one by one", "together"])


@asynccontextmanager
async def served(port: int, answers: dict[bytes, bytes]) -> AsyncIterator[SmtpMailServer]:
    """A mail server that answers each command as told, or else is fine with it."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answers.get(b"", GREETING) + b"\r\n")
        in_data = False
        while line := await reader.readline():
            verb = b"." if line == b".\r\n" else line[:4].upper()
            if in_data and verb != b".":
                continue
            answer = answers.get(verb, GO_AHEAD if verb == b"DATA" else FINE)
            in_data = answer == GO_AHEAD
            writer.write(answer + b"\r\n")
        writer.close()

    opening = {"circuit_opens_after": 3, "circuit_opens_after_seconds": 0, "circuit_open_seconds": 60}
    async with mail_server_that(talk, port, connections=2, **opening) as server:
        yield server


async def what_comes_of_it(server: SmtpMailServer) -> str:
    try:
        return type(await server.send(MAIL, key="one")).__name__
    except CallFailed as failure:
        return failure.reason


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({b"": b"421 too busy"}, "mail_server_unavailable"),
        ({b"MAIL": b"451 not now"}, "mail_server_unavailable_451"),
        ({b"RCPT": b"421 closing"}, "mail_postponed_421"),
        ({b"DATA": b"452 disk full"}, "mail_postponed_452"),
        ({b".": b"451 not now"}, "mail_postponed_451"),
    ],
)
@both_ways
async def test_in_trouble(
    unused_tcp_port: int, answers: dict[bytes, bytes], reason: str, extensions: dict[bytes, bytes]
) -> None:
    async with served(unused_tcp_port, extensions | answers) as server:
        came = [await what_comes_of_it(server) for _ in range(4)]
        assert came == [reason] * 3 + ["mail_server_circuit_open"]


@pytest.mark.parametrize(
    ("answers", "came"),
    [
        ({}, "Accepted"),
        ({b"RCPT": b"450 greylisted"}, "mail_postponed_450"),
        ({b"RCPT": b"550 nobody here"}, "Refused"),
        ({b"RCPT": b"550 nobody here", b"DATA": b"503 to whom?"}, "Refused"),
        ({b"RCPT": b"550 nobody here", b"RSET": b"500 what?"}, "Refused"),
        ({b"RCPT": b"550 nobody here", b"RSET": b"what?"}, "Refused"),
        ({b"RCPT": b"550-nobody\r\n550 here"}, "Refused"),
        ({b".": b"554 spam"}, "Refused"),
    ],
)
@both_ways
async def test_something_against_a_mail(
    unused_tcp_port: int, answers: dict[bytes, bytes], came: str, extensions: dict[bytes, bytes]
) -> None:
    async with served(unused_tcp_port, extensions | answers) as server:
        assert [await what_comes_of_it(server) for _ in range(5)] == [came] * 5
