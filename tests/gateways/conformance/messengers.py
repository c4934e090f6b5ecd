"""News to one customer by way of a messenger, whichever it is: what the suite asks for and what it sees."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from events.decision import Outcome
from events.facts.notification import Channel
from events.outbound.dispatcher import CallFailed
from notification_svc.decide import SendEmail, SendPush
from notification_svc.gateway import (
    Contact,
    NotificationGateway,
    NotificationSettings,
    gateway_from,
    mail_server_from,
    push_service_from,
)
from tests.gateways.conformance.faulty import Fault, Faulty
from tests.gateways.conformance.faulty_mail import FaultyMail
from tests.gateways.world import carry_out, settings_for
from tests.sandbox.conftest import Client
from tests.sandbox_process import SandboxProcess

# A new adapter is accepted by being named here, and passing.
MESSENGERS = ("sandbox", "apprise", "mail")
PUSH, APPRISE, MAIL = MESSENGERS


@dataclass
class Messenger:
    """News of one order to one customer."""

    gateway: NotificationGateway
    name: str
    client: Client
    http: Faulty | None = None
    smtp: FaultyMail | None = None
    order_id: UUID = field(default_factory=uuid4)

    @property
    def channel(self) -> Channel:
        return "email" if self.name == MAIL else "push"

    def call(self, customer: str = "cust_1", number: int = 1) -> SendEmail | SendPush:
        kind = SendEmail if self.name == MAIL else SendPush
        return kind(order_id=self.order_id, customer=customer, ending="confirmed", round=number)

    def meets(self, fault: Fault, times: int = 1) -> None:
        between = self.smtp if self.name == MAIL else self.http
        assert between is not None
        between.meets(fault, times)

    async def carry_out(self, call: SendEmail | SendPush) -> tuple[Outcome | None, list[CallFailed]]:
        """As the runtime does it."""
        return await carry_out(self.gateway, call)

    async def arrived(self) -> list[dict[str, Any]]:
        """What the customer has of this order: a message counts once, however often it was sent."""
        where = "mail" if self.name == MAIL else "push"
        _, page = await self.client.get(f"/{where}/messages?limit=1000")
        return [message for message in page["messages"] if str(self.order_id) in message["text"]]


def messenger_settings(
    name: str, sandbox: SandboxProcess, url: str, smtp_url: str, **more: Any
) -> NotificationSettings:
    """Of notification, with this messenger over what is at these addresses."""
    address = url.partition("://")[2]
    given = {
        "push": name if name in (PUSH, APPRISE) else PUSH,
        "push_services": (f"json@{address}", f"jsons@{address}"),
        "push_url": f"{url}/push",
        "directory_url": f"{url}/directory",
        "smtp_url": smtp_url,
    }
    return settings_for(NotificationSettings, sandbox, **(given | more))


@dataclass
class OneCustomer:
    """A directory in which everybody is reached there."""

    device: str

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def entry(self, _customer: str) -> Contact:
        return Contact(name="Ada", email="ada@customers.example", device=self.device)


@asynccontextmanager
async def opened(
    settings: NotificationSettings, device: str | None = None
) -> AsyncIterator[NotificationGateway]:
    """The gateway by these settings; with a `device` everybody is reached by that."""
    gateway = gateway_from(settings)
    if device is not None:
        gateway = NotificationGateway(
            OneCustomer(device), mail_server_from(settings), push_service_from(settings)
        )
    await gateway.open()
    try:
        yield gateway
    finally:
        await gateway.close()
