"""The sandbox's mail server: what it takes, what it refuses, and what is kept of it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.sandbox.conftest import Client
from tests.sandbox_process import SandboxProcess, new_sandbox

HELLO, FROM, TO = b"EHLO me\r\n", b"MAIL FROM:<shop@shop.example>\r\n", b"RCPT TO:<ada@shop.example>\r\n"


@dataclass
class Conversation:
    """What a test says to the sandbox, word for word."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def say(self, words: bytes) -> None:
        self.writer.write(words)

    async def codes(self, count: int) -> list[int]:
        """Of so many replies; 0 where there is none, for the connection ended."""
        found: list[int] = []
        while len(found) < count:
            line = await self.reader.readline()
            if line[3:4] != b"-":
                found.append(int(line[:3] or 0))
        return found


@pytest.fixture
async def talk(sandbox: SandboxProcess) -> AsyncIterator[Conversation]:
    conversation = Conversation(*await asyncio.open_connection("127.0.0.1", sandbox.smtp_port))
    assert await conversation.codes(1) == [220]
    yield conversation
    conversation.writer.close()


def mail(reference: str, text: bytes = b"Hello\r\n") -> bytes:
    return f"Message-ID: <{reference}@here>\r\nSubject: Hi\r\n\r\n".encode() + text + b".\r\n"


async def kept(client: Client, reference: str) -> list[dict[str, Any]]:
    _, page = await client.get("/mail/messages?limit=100")
    return [one for one in page["messages"] if reference in one["message_id"]]


async def test_all_at_once(talk: Conversation, client: Client, reference: str) -> None:
    mails = [FROM + TO + b"DATA\r\n" + mail(f"{number}.{reference}") for number in range(3)]
    talk.say(HELLO + b"".join(mails) + b"NOOP\r\nQUIT\r\nNOOP\r\n")
    assert await talk.codes(1 + 3 * 4 + 3) == [250] + [250, 250, 354, 250] * 3 + [250, 221, 0]
    assert [one["deliveries"] for one in await kept(client, reference)] == [1, 1, 1]


async def test_byte_by_byte(talk: Conversation, client: Client, reference: str) -> None:
    for byte in HELLO + FROM + TO + b"DATA\r\n" + mail(reference):
        talk.say(bytes([byte]))
        await talk.writer.drain()
        await asyncio.sleep(0)
    assert await talk.codes(5) == [250, 250, 250, 354, 250]
    assert len(await kept(client, reference)) == 1


async def test_dots_are_taken_off_and_the_envelope_is_kept(
    talk: Conversation, client: Client, reference: str
) -> None:
    talk.say(HELLO + FROM + TO + b"rcpt to: <bo@shop.example>\r\nDATA\r\n")
    talk.say(mail(reference, b"..\r\n...two\r\nend.\r\n"))
    assert await talk.codes(6) == [250, 250, 250, 250, 354, 250]
    (shown,) = await kept(client, reference)
    assert shown["text"].splitlines() == [".", "..two", "end."]
    assert (shown["from"], shown["to"]) == ("shop@shop.example", ["ada@shop.example", "bo@shop.example"])


@pytest.mark.parametrize("head", [b"message-id:\r\n <%s@here>\r\n", b"X: 1\r\nMESSAGE-ID: <%s@here> \r\n"])
async def test_a_message_id_is_found_however_it_is_written(
    talk: Conversation, client: Client, reference: str, head: bytes
) -> None:
    for _ in range(2):
        talk.say(HELLO + FROM + TO + b"DATA\r\n" + head % reference.encode() + b"\r\nHello\r\n.\r\n")
        assert await talk.codes(5) == [250, 250, 250, 354, 250]
    assert [one["deliveries"] for one in await kept(client, reference)] == [2]


async def test_an_empty_mail_is_one(talk: Conversation) -> None:
    talk.say(HELLO + FROM + TO + b"DATA\r\n.\r\nNOOP\r\n")
    assert await talk.codes(6) == [250, 250, 250, 354, 250, 250]


@pytest.mark.parametrize(
    ("sent", "codes"),
    [
        (FROM, [503]),
        (HELLO + TO + b"DATA\r\n", [250, 503, 503]),
        (HELLO + FROM + FROM, [250, 250, 503]),
        (HELLO + FROM + b"DATA\r\n", [250, 250, 503]),
        (HELLO + FROM + b"RCPT TO:<bounces.ada@shop.example>\r\nDATA\r\n", [250, 250, 550, 503]),
        (HELLO + FROM + TO * 11, [250, 250, *[250] * 10, 452]),
        (HELLO + b"MAIL FROM:<>\r\n" + TO, [250, 250, 250]),
        (HELLO + b"MAIL FROM:\r\nMAIL\r\n", [250, 501, 501]),
        (HELLO + FROM + b"RCPT TO:\r\nRCPT ada\r\n", [250, 250, 501, 501]),
        (HELLO + b"MAIL FROM:<shop@shop.example> BODY=8BITMIME SIZE=70000\r\n", [250, 552]),
        (HELLO + FROM + b"RSET\r\n" + FROM, [250, 250, 250, 250]),
        (HELLO + FROM + HELLO + FROM, [250, 250, 250, 250]),
        (b"HELO me\r\nVRFY ada\r\nnoop\r\n\r\nTURN\r\n\xff\r\n", [250, 252, 250, 500, 500, 500]),
        (b"x" * 3_000 + b"\r\nNOOP\r\n", [500, 250]),
    ],
)
async def test_out_of_order_or_beyond_bounds(talk: Conversation, sent: bytes, codes: list[int]) -> None:
    talk.say(sent)
    assert await talk.codes(len(codes)) == codes


async def test_a_mail_too_large_is_read_to_its_end_and_refused(
    talk: Conversation, client: Client, reference: str
) -> None:
    talk.say(HELLO + FROM + TO + b"DATA\r\n" + mail(reference, (b"y" * 70 + b"\r\n") * 7_000))
    talk.say(FROM + TO + b"DATA\r\n" + mail(f"small.{reference}"))
    assert await talk.codes(9) == [250, 250, 250, 354, 552, 250, 250, 354, 250]
    assert len(await kept(client, reference)) == 1


async def test_idle_sessions_end(tmp_path_factory: pytest.TempPathFactory) -> None:
    sandbox = new_sandbox(tmp_path_factory.mktemp("idle"))
    sandbox.start(SANDBOX_SMTP_TIMEOUT_SECONDS="0.3")
    try:
        talk = Conversation(*await asyncio.open_connection("127.0.0.1", sandbox.smtp_port))
        assert await talk.codes(2) == [220, 0]
    finally:
        assert sandbox.stop() == 0
