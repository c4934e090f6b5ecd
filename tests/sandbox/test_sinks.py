"""Mail and push end here, once each, and can be looked at."""

import smtplib
from email.message import EmailMessage

import pytest
from aiohttp import ClientSession

from tests.sandbox.conftest import Client
from tests.sandbox_process import SandboxProcess, new_sandbox


def mail(message_id: str, to: str = "ada@customers.example", text: str = "Your order left.") -> EmailMessage:
    message = EmailMessage()
    message["Message-ID"] = f"<{message_id}@shop.example>"
    message["From"] = "shop@shop.example"
    message["To"] = to
    message["Subject"] = "Über Ihre Bestellung"
    message.set_content(text)
    return message


def send(sandbox: SandboxProcess, message: EmailMessage) -> None:
    with smtplib.SMTP("127.0.0.1", sandbox.smtp_port, timeout=10) as smtp:
        smtp.send_message(message)


async def test_a_mail_is_kept_and_shown(sandbox: SandboxProcess, client: Client, reference: str) -> None:
    send(sandbox, mail(reference, text="Hällo\n.\nthere"))
    _, page = await client.get("/mail/messages?limit=1")
    (shown,) = page["messages"]
    assert shown["message_id"] == f"<{reference}@shop.example>"
    assert shown["to"] == ["ada@customers.example"]
    assert shown["subject"] == "Über Ihre Bestellung"
    assert shown["text"] == "Hällo\n.\nthere"
    assert shown["deliveries"] == 1


async def test_a_repeated_message_id_is_kept_once(
    sandbox: SandboxProcess, client: Client, reference: str
) -> None:
    send(sandbox, mail(reference))
    send(sandbox, mail(reference))
    _, page = await client.get("/mail/messages?limit=100")
    mine = [one for one in page["messages"] if reference in one["message_id"]]
    assert [one["deliveries"] for one in mine] == [2]


async def test_a_mailbox_may_bounce(sandbox: SandboxProcess, client: Client, reference: str) -> None:
    _, known = await client.get("/directory/customers/cust_mail_bounces")
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        send(sandbox, mail(reference, to=known["email"]))
    assert [code for code, _ in refused.value.recipients.values()] == [550]


async def test_a_mail_too_large_is_refused(sandbox: SandboxProcess, reference: str) -> None:
    with pytest.raises(smtplib.SMTPException):
        send(sandbox, mail(reference, text="x" * 70 + "\n" + ("y" * 70 + "\n") * 2000))


async def test_mail_faults_fail_before_and_lose_after_the_work(
    sandbox: SandboxProcess, client: Client, reference: str
) -> None:
    await client.faults(target="mail", fail_rate=1)
    with pytest.raises(smtplib.SMTPDataError) as failed:
        send(sandbox, mail(reference))
    assert failed.value.smtp_code == 451
    await client.faults(target="mail", lose_answer_rate=1)
    with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError)):
        send(sandbox, mail(reference))
    await client.behave()
    send(sandbox, mail(reference))
    _, page = await client.get("/mail/messages?limit=1")
    assert page["messages"][0]["deliveries"] == 2


async def test_a_push_is_kept_once_a_key(client: Client, reference: str) -> None:
    body = {"device": "device-1", "title": "Your order", "text": reference}
    first = await client.post("/push/messages", body, key=reference)
    assert first[0] == 201
    assert await client.post("/push/messages", body, key=reference) == first
    _, page = await client.get("/push/messages?limit=100")
    assert [one["device"] for one in page["messages"] if one["text"] == reference] == ["device-1"]


async def test_the_newest_come_first_and_pages_go_back(client: Client, reference: str) -> None:
    for number in range(5):
        await client.post("/push/messages", {"device": "d", "title": reference, "text": str(number)})
    _, page = await client.get("/push/messages?limit=2")
    _, earlier = await client.get(f"/push/messages?limit=3&before={page['next_before']}")
    assert [one["text"] for one in page["messages"] + earlier["messages"]] == ["4", "3", "2", "1", "0"]


async def test_sinks_forget_the_oldest_and_sessions_are_bounded(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    sandbox = new_sandbox(tmp_path_factory.mktemp("sinks"))
    sandbox.start(SANDBOX_SINK_RETENTION="150", SANDBOX_SMTP_CONNECTION_LIMIT="2")
    try:
        address = ("127.0.0.1", sandbox.smtp_port)
        with smtplib.SMTP(*address) as one, smtplib.SMTP(*address):
            with pytest.raises(smtplib.SMTPConnectError) as busy:
                smtplib.SMTP(*address)
            assert busy.value.smtp_code == 421
            for number in range(400):
                one.send_message(mail(f"mail-{number}"))
        async with ClientSession(sandbox.url) as session:
            _, page = await Client(session).get("/mail/messages?limit=1000")
        assert len(page["messages"]) == 150
        assert page["messages"][0]["message_id"] == "<mail-399@shop.example>"
    finally:
        assert sandbox.stop() == 0
