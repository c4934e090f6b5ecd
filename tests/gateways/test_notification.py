"""Notification's gateway against a real sandbox: mail and push, every outcome."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from events.outbound.dispatcher import CallFailed, Gateway
from notification_svc.decide import Calls, Delivered, SendEmail, SendPush, Undeliverable
from notification_svc.gateway import NotificationGateway, NotificationSettings, gateway_from
from tests.gateways.world import carry_out, in_short, settings_for
from tests.sandbox.conftest import Client
from tests.sandbox_process import SandboxProcess, new_sandbox


def mail(order_id: UUID, customer: str = "cust_1") -> SendEmail:
    return SendEmail(order_id=order_id, customer=customer, ending="confirmed")


def push(order_id: UUID, customer: str = "cust_1") -> SendPush:
    return SendPush(order_id=order_id, customer=customer, ending="cancelled", reason="card_declined")


async def mails_about(client: Client, order_id: UUID) -> list[dict[str, Any]]:
    _, page = await client.get("/mail/messages?limit=1000")
    return [one for one in page["messages"] if str(order_id) in one["text"]]


async def pushes_about(client: Client, order_id: UUID) -> list[dict[str, Any]]:
    _, page = await client.get("/push/messages?limit=1000")
    return [one for one in page["messages"] if str(order_id) in one["text"]]


@pytest.fixture
async def one_connection(sandbox: SandboxProcess) -> AsyncIterator[NotificationGateway]:
    """A gateway whose mails all go over one connection."""
    settings = settings_for(
        NotificationSettings, sandbox, mail_connections=1, mail_sender="shop@birds.example"
    )
    gateway = gateway_from(settings)
    await gateway.open()
    yield gateway
    await gateway.close()


def test_it_is_a_gateway_to_the_runtime(notification: NotificationGateway) -> None:
    gateway: Gateway[Calls] = notification
    assert gateway is notification


async def test_a_confirmation_by_mail(
    notification: NotificationGateway, client: Client, order_id: UUID
) -> None:
    assert await notification.perform(mail(order_id)) == Delivered("email")
    _, known = await client.get("/directory/customers/cust_1")
    (sent,) = await mails_about(client, order_id)
    assert sent["to"] == [known["email"]]
    assert sent["subject"] == "Your order is confirmed"
    assert sent["text"].startswith(f"Hello {known['name']},\n")
    assert sent["message_id"] == f"<send_email.{order_id}@shop.example>"


async def test_a_cancellation_by_push(
    notification: NotificationGateway, client: Client, order_id: UUID
) -> None:
    assert await notification.perform(push(order_id)) == Delivered("push")
    (shown,) = await pushes_about(client, order_id)
    _, known = await client.get("/directory/customers/cust_1")
    assert shown["device"] == known["device"]
    assert shown["title"] == "Your order was cancelled"
    assert "because your means of payment was declined" in shown["text"]


async def test_reasons_that_mean_nothing_to_a_customer_stay_inside(
    notification: NotificationGateway, client: Client, order_id: UUID
) -> None:
    call = SendEmail(order_id=order_id, customer="cust_1", ending="cancelled", reason="provider_unavailable")
    await notification.perform(call)
    (sent,) = await mails_about(client, order_id)
    assert "provider" not in sent["text"]
    assert "because" not in sent["text"]


async def test_a_repeated_notice_is_recognised(
    notification: NotificationGateway, client: Client, order_id: UUID
) -> None:
    for call in (mail(order_id), push(order_id)):
        assert await notification.perform(call) == await notification.perform(call)
        assert await notification.look_up(call) is None
    assert [sent["deliveries"] for sent in await mails_about(client, order_id)] == [2]
    assert len(await pushes_about(client, order_id)) == 1


async def test_a_notice_of_the_next_round_is_another(
    notification: NotificationGateway, client: Client, order_id: UUID
) -> None:
    for call in (mail(order_id), push(order_id)):
        for number in (1, 2, 2):
            await notification.perform(call.model_copy(update={"round": number}))
    sent = {one["message_id"]: one["deliveries"] for one in await mails_about(client, order_id)}
    assert sent == {
        f"<send_email.{order_id}@shop.example>": 1,
        f"<send_email.{order_id}.2@shop.example>": 2,
    }
    assert len(await pushes_about(client, order_id)) == 2


@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        (mail(uuid4(), "cust_mail_bounces_1"), Undeliverable("email", "mail_refused_550")),
        (mail(uuid4(), "cust_unknown_1"), Undeliverable("email", "unknown_customer")),
        (push(uuid4(), "cust_no_push_1"), Undeliverable("push", "no_device")),
        (push(uuid4(), "cust_unknown_1"), Undeliverable("push", "unknown_customer")),
    ],
    ids=["bounces", "unknown by mail", "no device", "unknown by push"],
)
async def test_customers_who_cannot_be_reached(
    notification: NotificationGateway, call: Calls, outcome: Undeliverable
) -> None:
    assert await notification.perform(call) == outcome


async def test_a_bounce_does_not_spoil_the_connection(
    one_connection: NotificationGateway, client: Client
) -> None:
    for _ in range(3):
        order_id = uuid4()
        assert isinstance(await one_connection.perform(mail(order_id, "cust_mail_bounces")), Undeliverable)
        assert await one_connection.perform(mail(order_id)) == Delivered("email")
        (sent,) = await mails_about(client, order_id)
        assert sent["message_id"].endswith("@birds.example>")


async def test_many_mails_at_once_over_few_connections(
    one_connection: NotificationGateway, client: Client
) -> None:
    orders = [uuid4() for _ in range(50)]
    outcomes = await asyncio.gather(*[one_connection.perform(mail(order)) for order in orders])
    assert outcomes == [Delivered("email")] * 50
    _, page = await client.get("/mail/messages?limit=1000")
    for order in orders:
        assert sum(str(order) in sent["text"] for sent in page["messages"]) == 1


async def test_a_mail_server_that_postpones_has_not_sent_it(
    notification: NotificationGateway, client: Client, order_id: UUID
) -> None:
    await client.faults(target="mail", fail_rate=1)
    with pytest.raises(CallFailed) as failed:
        await notification.perform(mail(order_id))
    assert in_short([failed.value]) == [("mail_postponed_451", False)]
    await client.behave()
    assert await notification.perform(mail(order_id)) == Delivered("email")
    assert [sent["deliveries"] for sent in await mails_about(client, order_id)] == [1]


async def test_a_mail_whose_answer_is_lost_is_sent_again_and_recognised(
    notification: NotificationGateway, client: Client, order_id: UUID
) -> None:
    await client.faults(target="mail", lose_answer_rate=1)
    with pytest.raises(CallFailed) as failed:
        await notification.perform(mail(order_id))
    assert in_short([failed.value]) == [("mail_answer_lost", True)]
    await client.behave()
    assert await notification.perform(mail(order_id)) == Delivered("email")
    assert [sent["deliveries"] for sent in await mails_about(client, order_id)] == [2]


async def test_a_mail_server_too_slow_may_have_sent_it(
    one_connection: NotificationGateway, client: Client, order_id: UUID
) -> None:
    await client.faults(target="mail", latency_seconds=2)
    with pytest.raises(CallFailed) as failed:
        await one_connection.perform(mail(order_id))
    assert in_short([failed.value]) == [("mail_answer_lost", True)]
    await client.behave()
    assert await one_connection.perform(mail(order_id)) == Delivered("email")


async def test_a_cancelled_mail_leaves_no_half_spoken_connection(
    one_connection: NotificationGateway, client: Client, order_id: UUID
) -> None:
    await client.faults(target="mail", latency_seconds=0.6)
    attempt = asyncio.create_task(one_connection.perform(mail(order_id)))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(attempt, 0.3)
    await client.behave()
    other = uuid4()
    assert await one_connection.perform(mail(other)) == Delivered("email")
    assert len(await mails_about(client, other)) == 1


async def test_a_lost_push_is_shown_once(
    notification: NotificationGateway, client: Client, order_id: UUID
) -> None:
    await client.faults(target="push", lose_answer_rate=1)
    with pytest.raises(CallFailed) as failed:
        await notification.perform(push(order_id))
    assert in_short([failed.value]) == [("push_answer_lost", True)]
    await client.behave()
    outcome, _ = await carry_out(notification, push(order_id))
    assert outcome == Delivered("push")
    assert len(await pushes_about(client, order_id)) == 1


async def test_a_mail_server_away_is_reached_again(
    tmp_path_factory: pytest.TempPathFactory, order_id: UUID
) -> None:
    sandbox = new_sandbox(tmp_path_factory.mktemp("away"))
    sandbox.start()
    gateway = gateway_from(settings_for(NotificationSettings, sandbox))
    await gateway.open()
    try:
        assert await gateway.perform(mail(order_id)) == Delivered("email")
        sandbox.stop()
        with pytest.raises(CallFailed) as failed:
            await gateway.perform(mail(order_id, "cust_2"))
        assert in_short([failed.value]) == [("directory_unreachable", False)]
        sandbox.start()
        # The kept connection died with the old server: this goes over a fresh one, in the first attempt.
        assert await gateway.perform(mail(uuid4())) == Delivered("email")
        no_mail = gateway_from(settings_for(NotificationSettings, sandbox, smtp_url="smtp://127.0.0.1:1"))
        await no_mail.open()
        with pytest.raises(CallFailed) as failed:
            await no_mail.perform(mail(order_id))
        assert in_short([failed.value]) == [("mail_server_unavailable", False)]
        await no_mail.close()
    finally:
        await gateway.close()
        sandbox.stop()
