"""Notification's ways to a customer: mail and push, and the directory that knows where they lead.

`CustomerDirectory`, `MailServer` and `PushService` are what notification needs; write adapters for yours in
the place of those here, which speak HTTP and SMTP to the sandbox. `NotificationGateway` turns calls of
decide.py into its outcomes.
"""

import asyncio
from dataclasses import dataclass
from typing import Annotated, Protocol, assert_never
from uuid import UUID

from pydantic import (
    BaseModel,
    Field,
    FilePath,
    SecretStr,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

from events.facts.notification import Ending
from events.outbound.circuit import CircuitBreaker
from events.outbound.http_party import Accepted, HttpAdapter, HttpParty, HttpUrl, OutsideParty, Refused
from events.runtime.settings import ENV_PREFIX, ServiceSettings
from notification_svc.decide import Calls, Delivered, SendEmail, SendPush, Undeliverable
from notification_svc.mail import Access, Mail, SmtpMailServer, StartTls, goes_unencrypted

# Reasons that mean something to a customer; any other cancellation is announced without one.
REASONS = {
    "out_of_stock": "we do not have everything you wanted in stock",
    "unknown_sku": "we do not have everything you wanted in stock",
    "card_declined": "your means of payment was declined",
    "address_not_served": "our carrier does not deliver to your address",
    "customer_cancelled": "you asked us to cancel it",
    "timed_out": "we could not complete it in time",
}


@dataclass(frozen=True, slots=True)
class Message:
    """A title and a sentence or two."""

    title: str
    text: str


def message_for(order_id: UUID, ending: Ending, reason: str | None) -> Message:
    """What to say of an order that ended so."""
    match ending:
        case "confirmed":
            return Message("Your order is confirmed", f"Your order {order_id} is confirmed and will be sent.")
        case "cancelled":
            because = f", because {REASONS[reason]}" if reason in REASONS else ""
            text = f"Your order {order_id} was cancelled{because}. You are not charged for it."
            return Message("Your order was cancelled", text)
        case _:
            assert_never(ending)


def mail_text(name: str, message: Message) -> str:
    """The message as the body of a mail."""
    return f"Hello {name},\n\n{message.text}\n"


UNKNOWN_CUSTOMER = "unknown_customer"
NO_DEVICE = "no_device"
DEVICE_GONE = "device_gone"

Mailbox = Annotated[str, StringConstraints(pattern=r"^[!-;=?A-~]+@[!-;=?A-~]+$", max_length=254)]


class NotificationSettings(ServiceSettings):
    """What the gateway reads besides."""

    directory_url: HttpUrl
    directory_token: SecretStr | None = None
    push_url: HttpUrl
    push_token: SecretStr | None = None
    # STARTTLS where the URL is smtp://, and who logs in (or user:password@ in the URL).
    smtp_starttls: StartTls = "offered"
    smtp_username: str | None = None
    smtp_password: SecretStr | None = None
    # Whose certificates are trusted, in the place of the system's.
    smtp_ca_file: FilePath | None = None
    smtp_url: Annotated[str, StringConstraints(pattern=r"^smtps?://[^/\s]+")]
    mail_sender: Mailbox = "orders@shop.example"
    mail_connections: int = Field(default=32, gt=0)

    @property
    def smtp_access(self) -> Access:
        """How to speak to the mail server."""
        return Access(self.smtp_starttls, self.smtp_username, self.smtp_password, self.smtp_ca_file)

    @field_validator("smtp_url")
    @classmethod
    def _keeps_its_password(cls, given: str, known: ValidationInfo) -> str:
        read = known.data
        if goes_unencrypted(given, Access(read.get("smtp_starttls", "offered"), read.get("smtp_username"))):
            raise ValueError(f"a password needs smtps://, or {ENV_PREFIX}SMTP_STARTTLS=required")
        return given


class Contact(BaseModel):
    """How to reach a customer: personal data, to be used and not kept or logged."""

    name: str
    email: Mailbox
    device: str | None


class CustomerDirectory(OutsideParty, Protocol):
    """Who is behind a customer token."""

    async def contact(self, customer: str) -> Contact | None:
        """Name, mailbox and device, or None for nobody. Raises CallFailed when another attempt may help."""


class MailServer(OutsideParty, Protocol):
    """Somebody who takes mail."""

    async def send(self, mail: Mail, *, key: str) -> Accepted | Refused:
        """Send it, recognisable by its key. Raises CallFailed when another attempt may help."""


class PushService(OutsideParty, Protocol):
    """Somebody who shows messages on devices."""

    async def push(self, device: str, title: str, text: str, *, key: str) -> Accepted | Refused:
        """Show it, once per key. Raises CallFailed when another attempt may help."""


class NotificationGateway:
    """Sends the customer what decide.py decided."""

    def __init__(
        self, directory: CustomerDirectory, mail_server: MailServer, push_service: PushService
    ) -> None:
        self._directory = directory
        self._mail_server = mail_server
        self._push_service = push_service

    async def open(self) -> None:
        """Get ready."""
        for party in (self._directory, self._mail_server, self._push_service):
            await party.open()

    async def close(self) -> None:
        """Let go of connections."""
        for party in (self._directory, self._mail_server, self._push_service):
            await party.close()

    async def perform(self, call: Calls) -> Delivered | Undeliverable:
        """Tell the customer. Raises CallFailed when another attempt may help."""
        contact = await self._directory.contact(call.customer)
        message = message_for(call.order_id, call.ending, call.reason)
        key = call.idempotency_key
        match call:
            case SendEmail():
                if contact is None:
                    return Undeliverable("email", UNKNOWN_CUSTOMER)
                mail = Mail(contact.email, message.title, mail_text(contact.name, message))
                answer = await self._mail_server.send(mail, key=key)
                return (
                    Undeliverable("email", answer.reason)
                    if isinstance(answer, Refused)
                    else Delivered("email")
                )
            case SendPush():
                if contact is None or contact.device is None:
                    return Undeliverable("push", UNKNOWN_CUSTOMER if contact is None else NO_DEVICE)
                answer = await self._push_service.push(contact.device, message.title, message.text, key=key)
                return (
                    Undeliverable("push", answer.reason) if isinstance(answer, Refused) else Delivered("push")
                )
            case _:
                assert_never(call)

    async def look_up(self, call: Calls) -> Delivered | Undeliverable | None:
        """Neither mail nor push can say: it is sent again, and recognised by its Message-ID or its key."""
        return None


class HttpCustomerDirectory(HttpAdapter):
    """The sandbox's directory; reads no more than notification needs."""

    async def contact(self, customer: str) -> Contact | None:
        """200 or 404."""
        reply = await self._party.get("/customers", last_part=customer)
        if reply.http_status == 404:
            return None
        if reply.http_status != 200:
            raise reply.unexpected()
        return reply.read_as(Contact)


class SharedLookUps:
    """A directory asked once by all who want the same contact at the same moment: e-mail and push do."""

    def __init__(self, directory: CustomerDirectory) -> None:
        self._directory = directory
        self._asking: dict[str, asyncio.Task[Contact | None]] = {}

    async def open(self) -> None:
        """Get ready."""
        await self._directory.open()

    async def close(self) -> None:
        """Let go of connections."""
        await self._directory.close()

    async def contact(self, customer: str) -> Contact | None:
        """What the directory answers, or raises. Nothing is kept beyond that."""
        asking = self._asking.get(customer)
        if asking is None:
            asking = self._asking[customer] = asyncio.create_task(self._directory.contact(customer))
            asking.add_done_callback(lambda _: self._asking.pop(customer))
        return await asyncio.shield(asking)


class HttpPushService(HttpAdapter):
    """The sandbox's push service."""

    async def push(self, device: str, title: str, text: str, *, key: str) -> Accepted | Refused:
        """201, or 404 and 410 for a device that is no more."""
        body = {"device": device, "title": title, "text": text}
        reply = await self._party.post("/messages", body, idempotency_key=key)
        if reply.http_status == 201:
            return Accepted()
        if reply.http_status in (404, 410):
            return Refused(DEVICE_GONE)
        raise reply.unexpected()


def gateway_from(settings: NotificationSettings) -> NotificationGateway:
    """The gateway to the directory, mail and push that the settings name."""
    directory = HttpParty(
        "directory", settings.directory_url, settings, bearer_token=settings.directory_token
    )
    mail_server = SmtpMailServer(
        settings.smtp_url,
        CircuitBreaker("mail_server", settings),
        settings.smtp_access,
        sender=settings.mail_sender,
        connections=settings.mail_connections,
        timeout_seconds=settings.call_timeout_seconds,
        idle_seconds=settings.idle_connection_seconds,
    )
    push = HttpParty("push", settings.push_url, settings, bearer_token=settings.push_token)
    return NotificationGateway(
        SharedLookUps(HttpCustomerDirectory(directory)), mail_server, HttpPushService(push)
    )
