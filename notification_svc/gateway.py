"""Notification's ways to a customer: mail and push; where they lead, the directory knows.

`MailServer` and `PushService` are what notification needs; write adapters for yours in the place of those
here, which speak HTTP and SMTP to the sandbox. `NotificationGateway` turns calls of decide.py into its
outcomes.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, assert_never
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
from pydantic_settings import NoDecode

from events.facts.notification import Ending
from events.outbound.circuit import CircuitBreaker
from events.outbound.directory import CustomerDirectory, DirectorySettings, HttpCustomerDirectory
from events.outbound.http_party import Accepted, HttpAdapter, HttpParty, HttpUrl, OutsideParty, Refused
from events.runtime.settings import ENV_PREFIX, FromJson
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


class NotificationSettings(DirectorySettings):
    """What the gateway reads besides: who shows messages on devices, and how to reach the mail server."""

    push: Literal["sandbox", "apprise"] = "sandbox"
    push_url: HttpUrl | None = Field(default=None, validate_default=True)
    push_token: SecretStr | None = None
    # Of apprise's services those that a customer's URL may name: `pover`, or with its server `ntfys@ntfy.sh`.
    push_services: Annotated[tuple[str, ...], NoDecode, FromJson] = Field(
        default=("join", "pbul", "pover", "prowl", "psafer", "pushy", "spush"), validate_default=True
    )
    push_timeout_seconds: float = Field(default=3.0, gt=0)
    # Each message that is under way by apprise has one.
    push_threads: int = Field(default=16, gt=0)
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

    @field_validator("push_url")
    @classmethod
    def _where(cls, given: str | None, known: ValidationInfo) -> str | None:
        if given is None and known.data.get("push") == "sandbox":
            raise ValueError("needed where push messages go to the sandbox")
        return given

    @field_validator("push_services")
    @classmethod
    def _known_to_apprise(cls, given: tuple[str, ...], known: ValidationInfo) -> tuple[str, ...]:
        if known.data.get("push") == "apprise":
            # To import it takes half a second, and memory, which nobody needs who has none of it.
            from notification_svc.apprise_push import allowed_by

            allowed_by(given)
        return given

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


class ContactByUrl(Contact):
    """The same, where the device is wherever one of apprise's URLs leads."""

    device: str | None = Field(default=None, alias="apprise_url", max_length=2_000)


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
        self, directory: CustomerDirectory[Contact], mail_server: MailServer, push_service: PushService
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
        contact = await self._directory.entry(call.customer)
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
    kind = ContactByUrl if settings.push == "apprise" else Contact
    directory = HttpCustomerDirectory(settings, kind)
    return NotificationGateway(directory, mail_server_from(settings), push_service_from(settings))


def mail_server_from(settings: NotificationSettings) -> SmtpMailServer:
    """The mail server that the settings name."""
    return SmtpMailServer(
        settings.smtp_url,
        CircuitBreaker("mail_server", settings),
        settings.smtp_access,
        sender=settings.mail_sender,
        connections=settings.mail_connections,
        timeout_seconds=settings.call_timeout_seconds,
        idle_seconds=settings.idle_connection_seconds,
    )


def push_service_from(settings: NotificationSettings) -> PushService:
    """The push service that the settings name."""
    if settings.push == "apprise":
        from notification_svc.apprise_push import ApprisePushService

        return ApprisePushService(
            settings.push_services,
            settings,
            threads=settings.push_threads,
            timeout_seconds=settings.push_timeout_seconds,
        )
    assert settings.push_url is not None, "checked by whoever reads the settings"
    return HttpPushService(HttpParty("push", settings.push_url, settings, bearer_token=settings.push_token))
