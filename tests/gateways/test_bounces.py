"""Mails that come back: what of a report is taken, and what becomes of the notice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import aio_pika
import psycopg
import pytest
from fastapi import FastAPI

from events.facts import Fact
from events.facts.order import OrderConfirmed
from events.facts.saga import RetryRequested
from events.http.application import create_app
from events.http.tokens import named
from events.messaging.envelope import Envelope, decode, encode
from events.messaging.topology import declare
from events.runtime.service_runtime import ServiceRuntime
from events.service import EXCHANGE
from notification_svc.gateway import NotificationSettings
from notification_svc.mail import message_id, sent_as
from notification_svc.service import SERVICE
from tests.gateways.world import settings_for
from tests.runtime.eventually import eventually
from tests.sandbox.conftest import Client
from tests.sandbox_process import SandboxProcess
from tests.servers import Servers
from tests.tracker.watch import Answer, post

PROVIDER = "the-mail-providers"


@dataclass
class Desk:
    """A running notification service, whoever publishes to it, and what it publishes."""

    exchange: aio_pika.abc.AbstractExchange
    database_url: str
    app: FastAPI
    published: list[Fact]

    async def publish(self, fact: Fact) -> None:
        """As the service would whose fact it is."""
        message = encode(Envelope(uuid4(), fact, fact.owner, datetime.now(UTC)))
        await self.exchange.publish(message, fact.wire_name)

    async def confirm(self, customer: str) -> UUID:
        """An order of theirs is confirmed, and they are notified."""
        order_id = uuid4()
        await self.publish(
            OrderConfirmed(order_id=order_id, customer=customer, amount_minor=100, currency="EUR")
        )
        await self.has_published(order_id, "CustomerNotified")
        return order_id

    async def has_published(self, order_id: UUID, *names: str) -> None:
        def found() -> bool:
            return tuple(type(fact).__name__ for fact in self.published if fact.order_id == order_id) == names

        await eventually(found, why=" ".join(names))

    async def bounces(self, mail: str, status: str = "5.1.1", token: str | None = PROVIDER) -> Answer:
        return await post(self.app, "/bounces", {"message_id": mail, "status": status}, token=token)

    async def stands(self, order_id: UUID) -> tuple[Any, ...]:
        async with await psycopg.AsyncConnection.connect(self.database_url) as connection:
            found = await connection.execute(
                "SELECT status, email, push, reason FROM notices WHERE order_id = %s", [order_id]
            )
            return await found.fetchone() or ()


def mail_of(order_id: UUID, number: int = 1) -> str:
    key = f"send_email:{order_id}" + (f":{number}" if number > 1 else "")
    return message_id(key, "orders@shop.example")


@pytest.fixture
async def desk(servers: Servers, sandbox: SandboxProcess) -> AsyncIterator[Desk]:
    broker_url = await asyncio.to_thread(servers.new_vhost)
    database_url = await servers.new_database("notification_svc")
    await declare([SERVICE], broker_url)
    settings = settings_for(
        NotificationSettings,
        sandbox,
        broker_url=broker_url,
        database_url=database_url,
        tokens=str(named("mail-provider", "client", PROVIDER)),
    )
    host = ServiceRuntime(SERVICE, settings)
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(await aio_pika.connect(broker_url))
        channel = await connection.channel()
        exchange = await channel.get_exchange(EXCHANGE, ensure=False)
        published: list[Fact] = []
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(EXCHANGE, "notification.#")

        async def keep(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            published.append(decode(message, message.routing_key or "", 100_000).fact)

        await queue.consume(keep, no_ack=True)
        await host.start()
        stack.push_async_callback(host.stop)
        app = create_app("notification", "", settings, host, list(SERVICE.routers))
        yield Desk(exchange, database_url, app, published)


async def test_who_has_no_device_is_not_notified_after_all_and_can_be_again(
    desk: Desk, client: Client
) -> None:
    order_id = await desk.confirm("cust_no_push_1")
    for _ in range(3):
        assert (await desk.bounces(mail_of(order_id))).status == 204
    await desk.has_published(order_id, "CustomerNotified", "MailBounced")
    reason = "push: no_device; email: bounced: 5.1.1"
    assert await desk.stands(order_id) == ("failed", "undeliverable", "undeliverable", reason)
    await desk.publish(RetryRequested(order_id=order_id, service="notification", by="grace", note="again"))
    await desk.has_published(order_id, "CustomerNotified", "MailBounced", "CustomerNotified")
    _, page = await client.get("/mail/messages?limit=1000")
    sent = {mail["message_id"] for mail in page["messages"] if str(order_id) in mail["text"]}
    assert sent == {mail_of(order_id), mail_of(order_id, 2)}
    # The first one comes back once more, when the second has notified them.
    assert (await desk.bounces(mail_of(order_id))).status == 204
    assert (await desk.stands(order_id))[:2] == ("notified", "delivered")
    assert (await desk.bounces(mail_of(order_id, 2), "5.2.1")).status == 204
    await desk.has_published(order_id, "CustomerNotified", "MailBounced", "CustomerNotified", "MailBounced")


async def test_who_was_reached_by_push_is_notified_all_the_same(desk: Desk) -> None:
    order_id = await desk.confirm("cust_1")
    assert (await desk.bounces(mail_of(order_id))).status == 204
    expected = ("notified", "undeliverable", "delivered", "email: bounced: 5.1.1")
    assert await desk.stands(order_id) == expected


async def test_what_is_not_about_a_mail_that_counts_is_taken_and_left(desk: Desk) -> None:
    order_id = await desk.confirm("cust_no_push_1")
    before = await desk.stands(order_id)
    for mail, status in (
        (mail_of(order_id), "4.2.2"),
        (mail_of(order_id), "2.0.0"),
        (mail_of(order_id, 2), "5.1.1"),
        ("<newsletter.7@shop.example>", "5.1.1"),
        (f"<send_push.{order_id}@shop.example>", "5.1.1"),
    ):
        assert (await desk.bounces(mail, status)).status == 204
    assert await desk.stands(order_id) == before


async def test_a_mail_that_nobody_sent_is_unknown(desk: Desk) -> None:
    assert (await desk.bounces(mail_of(uuid4()))).status == 404


async def test_a_mail_that_is_still_being_sent_is_to_be_reported_again(desk: Desk, client: Client) -> None:
    await client.faults(target="mail", fail_rate=1)
    order_id = uuid4()
    await desk.publish(
        OrderConfirmed(order_id=order_id, customer="cust_no_push_1", amount_minor=100, currency="EUR")
    )

    async def sending() -> bool:
        return (await desk.stands(order_id))[1:3] == ("sending", "undeliverable")

    await eventually(sending)
    answer = await desk.bounces(mail_of(order_id))
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    await client.behave()
    await desk.has_published(order_id, "CustomerNotified")
    assert (await desk.bounces(mail_of(order_id))).status == 204
    await desk.has_published(order_id, "CustomerNotified", "MailBounced")


async def test_it_takes_a_clients_token(desk: Desk) -> None:
    assert (await desk.bounces(mail_of(uuid4()), token="nobodys")).status == 401
    assert (await desk.bounces(mail_of(uuid4()), token=None)).status == 401


@pytest.mark.parametrize("status", ["5", "550", "5.1.1 ada@customers.example", "", "5.1.1\n"])
async def test_nothing_but_a_status_is_taken(desk: Desk, status: str) -> None:
    assert (await desk.bounces(mail_of(uuid4()), status)).status == 422


@pytest.mark.parametrize("number", [1, 2, 317])
def test_a_message_id_names_its_call(number: int) -> None:
    order_id = uuid4()
    assert sent_as(mail_of(order_id, number)) == (order_id, number)
    assert sent_as(mail_of(order_id, number).strip("<>")) == (order_id, number)
