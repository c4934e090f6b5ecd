"""What a mail server sees of a mail, and what is made of one that says too much, too little, or nothing."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from email import charset, message_from_bytes
from email.policy import SMTP
from email.utils import parsedate_to_datetime

import pytest

from events.outbound.dispatcher import CallFailed
from events.outbound.http_party import Accepted
from notification_svc.mail import Mail, SmtpMailServer
from tests.gateways.world import mail_server_that

KEY = "send_email:one"


class Scripted:
    """A mail server that takes everything, unless it is to fall silent or hang up, once, at some command."""

    def __init__(self) -> None:
        self.connections = 0
        self.received: list[bytes] = []
        self.mails: list[bytes] = []
        self.silent_at: bytes | None = None
        self.hangs_up_at: bytes | None = None
        self.farewell = False

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await self._converse(reader, writer)
        writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            verb = line[:4].upper().strip()
            self.received.append(verb)
            if verb == b"DATA":
                writer.write(b"354 go ahead\r\n")
                self.mails.append((await reader.readuntil(b"\r\n.\r\n"))[:-3])
                verb = b"."
            if verb == self.silent_at:
                self.silent_at = None
                await reader.read()
                return
            if verb == self.hangs_up_at:
                self.hangs_up_at = None
                return
            writer.write(b"250-here\r\n250 PIPELINING\r\n" if verb == b"EHLO" else b"250 fine\r\n")
            if verb == b"." and self.farewell:
                await writer.drain()
                await asyncio.sleep(0.05)
                writer.write(b"421 good night\r\n")
                return


def serving(port: int, scripted: Scripted) -> AbstractAsyncContextManager[SmtpMailServer]:
    return mail_server_that(scripted.talk, port, connections=1)


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        ("Your order is confirmed", "Hello Ada,\n\nit comes.\n"),
        ("Über Ihre Bestellung", "Hällo\n.\n..\nthere\n"),
        ("Long " * 40, "no end of line"),
        ("=?utf-8?b?aGE=?=", "x" * 5_000),
        ("", ""),
    ],
)
async def test_a_mail_arrives_as_it_was_meant(unused_tcp_port: int, subject: str, text: str) -> None:
    scripted = Scripted()
    async with serving(unused_tcp_port, scripted) as server:
        assert await server.send(Mail("ada@shop.example", subject, text), key=KEY) == Accepted()
    (raw,) = scripted.mails
    lines = raw.split(b"\r\n")
    assert not any(b"\n" in line or b"\r" in line or line.startswith(b".") for line in lines)
    assert max(map(len, lines)) <= 100
    mail = message_from_bytes(raw, policy=SMTP)
    assert mail["Message-ID"] == "<send_email.one@shop.example>"
    assert (mail["From"], mail["To"]) == ("shop@shop.example", "ada@shop.example")
    assert mail["Subject"].strip() == subject.strip()
    assert parsedate_to_datetime(mail["Date"]).year > 2000
    assert mail.get_content().splitlines() == text.splitlines()


async def test_it_does_whatever_another_library_makes_of_utf_8(
    unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As apprise does for its whole process: a line could begin with a dot then."""
    monkeypatch.setitem(charset.CHARSETS, "utf-8", (charset.QP, charset.QP, "utf-8"))
    await test_a_mail_arrives_as_it_was_meant(
        unused_tcp_port, "Über Ihre Bestellung", "Hällo\n.\n..\nthere\n"
    )


@pytest.mark.parametrize(
    "to", ["ada@shop.example>\r\nDATA", "a b@shop.example", "<ada@shop.example>", "ä@b.c"]
)
def test_nothing_but_a_mailbox_is_one(to: str) -> None:
    with pytest.raises(ValueError, match="not a mailbox"):
        Mail(to, "Hello", "there")


async def test_nothing_breaks_out_of_a_subject(unused_tcp_port: int) -> None:
    scripted = Scripted()
    async with serving(unused_tcp_port, scripted) as server:
        await server.send(Mail("ada@shop.example", "Hello\r\nBcc: all@shop.example", "there"), key=KEY)
    assert message_from_bytes(scripted.mails[0], policy=SMTP)["Bcc"] is None


async def test_a_mail_takes_three_commands_and_connections_are_kept(unused_tcp_port: int) -> None:
    scripted = Scripted()
    async with serving(unused_tcp_port, scripted) as server:
        for _ in range(3):
            assert await server.send(Mail("ada@shop.example", "Hello", "there"), key=KEY) == Accepted()
    assert scripted.connections == 1
    assert scripted.received == [b"EHLO"] + [b"MAIL", b"RCPT", b"DATA"] * 3


async def outcomes(server: SmtpMailServer, count: int) -> Sequence[object]:
    """Of so many mails; a failure is its reason and whether the mail may have been sent."""
    came: list[object] = []
    for _ in range(count):
        try:
            came.append(await server.send(Mail("ada@shop.example", "Hello", "there"), key=KEY))
        except CallFailed as failure:
            came.append((failure.reason, failure.maybe_done))
    return came


@pytest.mark.parametrize("how", ["silent_at", "hangs_up_at"])
@pytest.mark.parametrize(
    ("where", "failure"),
    [
        (b"MAIL", ("mail_server_unavailable", False)),
        (b"RCPT", ("mail_answer_lost", False)),
        (b".", ("mail_answer_lost", True)),
    ],
)
async def test_no_reply(unused_tcp_port: int, how: str, where: bytes, failure: tuple[str, bool]) -> None:
    scripted = Scripted()
    setattr(scripted, how, where)
    async with serving(unused_tcp_port, scripted) as server:
        assert await outcomes(server, 2) == [failure, Accepted()]


async def test_a_farewell_is_not_taken_for_a_reply(unused_tcp_port: int) -> None:
    scripted = Scripted()
    scripted.farewell = True
    async with serving(unused_tcp_port, scripted) as server:
        assert await outcomes(server, 1) == [Accepted()]
        await asyncio.sleep(0.2)
        assert await outcomes(server, 1) == [Accepted()]
    assert scripted.connections == 2
