"""The customers: who each is, by the directory, and where mail and push messages to them end.

Everybody in the directory is made up, and the same every time. Tokens that cause trouble further on do so
through what it says: the carrier sees a postcode it does not serve, the mail server an address that bounces.
Neither ever sees the token. What is sent is kept for a while, shown to whoever looks, delivered to nobody.
The mail server is aiosmtpd's; here is what it does with a recipient and with a mail.
"""

import asyncio
import json
import re
from dataclasses import dataclass
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default as modern_policy
from hashlib import blake2b
from sqlite3 import Connection, Row
from typing import Annotated, Any, cast

from aiosmtpd.smtp import SMTP, Envelope, Session
from pydantic import StringConstraints

from compose.sandbox.http import Body, Problem
from compose.sandbox.ledger import Ledger
from compose.sandbox.operations import Answer, Delays, Faults, Manner, new_id, now
from events.telemetry.log import log

MAX_TOKEN_CHARACTERS = 100
MAIL_DOMAIN = "customers.example"
BOUNCING_MAILBOX = "bounces."

FIRST_NAMES = (
    "Ada",
    "Berta",
    "Carl",
    "Dora",
    "Emil",
    "Frida",
    "Gino",
    "Hana",
    "Igor",
    "Jana",
    "Kofi",
    "Lena",
)
LAST_NAMES = (
    "Amsel",
    "Brook",
    "Cole",
    "Dunn",
    "Ek",
    "Falk",
    "Gull",
    "Hart",
    "Iversen",
    "Jay",
    "Kite",
    "Lark",
)
STREETS = ("Starling Lane", "Reed Street", "Harbour Road", "Mill Walk", "Meadow Way", "Roost Hill")
PLACES = (("Utrecht", "3511 AB"), ("Zwolle", "8011 CD"), ("Leiden", "2312 EF"), ("Delft", "2611 GH"))


@dataclass(frozen=True, slots=True)
class Address:
    """Where a customer lives."""

    street: str
    city: str
    postcode: str
    country: str


UNSERVED = Address("Ferryman's Quay 1", "Far Isle", "9999 ZZ", "NL")

# Postcodes whose depot goes about every operation in its own manner.
DEPOTS = {
    "9901 SL": Manner.SLOW,
    "9902 FA": Manner.FAILS,
    "9903 FL": Manner.FLAKY,
    "9904 LO": Manner.LOST,
}
TOWNS = {
    "cust_carrier_slow": Address("Towpath 1", "Slackwater", "9901 SL", "NL"),
    "cust_carrier_fails": Address("Broken Bridge 1", "Wreckham", "9902 FA", "NL"),
    "cust_carrier_flaky": Address("Gusty Corner 1", "Flurry", "9903 FL", "NL"),
    "cust_carrier_lost": Address("Fog End 1", "Mistley", "9904 LO", "NL"),
    "cust_refused": UNSERVED,
    # Of EasyPost's door: what its documents describe, and no test address of its makes happen.
    "cust_refund_rejected": Address("Return Road 1", "Nay", "9911 RR", "NL"),
    "cust_refund_late_rejected": Address("Return Road 2", "Notso", "9912 RL", "NL"),
    "cust_refund_not_applicable": Address("Return Road 3", "Needless", "9913 NA", "NL"),
    "cust_undeliverable": Address("Nowhere 1", "Neverland", "9914 ND", "NL"),
    "cust_scan_form_late": Address("Barcode Alley 1", "Bywater", "9915 SC", "NL"),
    "cust_scan_form_failed": Address("Barcode Alley 2", "Blotting", "9916 SF", "NL"),
}


@dataclass(frozen=True, slots=True)
class Customer:
    """What the directory says of a customer; no `device` means no push messages."""

    name: str
    email: str
    device: str | None
    apprise_url: str | None
    address: Address


def customer_of(token: str, pushes_at: str) -> Customer | None:
    """The customer behind a token, or None when there is nobody. `pushes_at`: the sandbox's host and port."""
    if not token.startswith("cust_") or token.startswith("cust_unknown") or len(token) > MAX_TOKEN_CHARACTERS:
        return None
    digest = blake2b(token.encode(), digest_size=8).digest()
    first, last = FIRST_NAMES[digest[0] % len(FIRST_NAMES)], LAST_NAMES[digest[1] % len(LAST_NAMES)]
    mailbox = f"{first}.{last}".lower()
    if token.startswith("cust_mail_bounces"):
        mailbox = BOUNCING_MAILBOX + mailbox
    device = None if token.startswith("cust_no_push") else f"device-{digest.hex()}"
    return Customer(
        name=f"{first} {last}",
        email=f"{mailbox}.{digest.hex()[:6]}@{MAIL_DOMAIN}",
        device=device,
        apprise_url=device and f"json://{pushes_at}/push/apprise?:device={device}",
        address=_address(token, digest),
    )


def _address(token: str, digest: bytes) -> Address:
    for prefix, town in TOWNS.items():
        if token.startswith(prefix):
            return town
    city, postcode = PLACES[digest[2] % len(PLACES)]
    street = f"{STREETS[digest[3] % len(STREETS)]} {1 + digest[4] % 120}"
    return Address(street, city, postcode, "NL")


PRUNE_EVERY = 100
MAIL_LIMIT_BYTES = 64 * 1024
MAX_RECIPIENTS = 10
# Of a mail's headers, this one alone. To parse them all takes as long as to keep the mail.
_MESSAGE_ID = re.compile(rb"^message-id:(?:[ \t]|\r\n[ \t])*(\S.*?)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)


class Push(Body):
    """A push message to one device."""

    device: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    title: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    text: Annotated[str, StringConstraints(min_length=1, max_length=2000)]


class ApprisePush(Body):
    """The same by apprise's `json://`, which puts into the body what the URL says of it."""

    version: str
    title: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    message: Annotated[str, StringConstraints(min_length=1, max_length=2000)]
    attachments: list[str]
    type: str
    device: Annotated[str, StringConstraints(min_length=1, max_length=200)]


class PushSink:
    """The push service: 201 for every message, the latest of them kept."""

    def __init__(self, retention: int) -> None:
        self._retention = retention

    def deliver(self, db: Connection, push: Push) -> Answer:
        """Keep the message."""
        message_id = new_id("psh")
        row_id = db.execute(
            "INSERT INTO pushes (message_id, device, title, text, at) VALUES (?, ?, ?, ?, ?) RETURNING id",
            (message_id, push.device, push.title, push.text, now()),
        ).fetchone()[0]
        if row_id % PRUNE_EVERY == 0:
            db.execute("DELETE FROM pushes WHERE id <= ?", (row_id - self._retention,))
        return Answer(201, {"status": "sent", "message_id": message_id})

    def deliver_by_apprise(self, db: Connection, push: ApprisePush) -> Answer:
        """Keep the message."""
        return self.deliver(db, Push(device=push.device, title=push.title, text=push.message))

    @staticmethod
    def manner(_db: Connection, _push: Push | ApprisePush) -> Manner:
        """Push tokens never misbehave by themselves; `PUT /faults` can make the service."""
        return Manner.WELL


class MailSink:
    """What is behind the mail server: keeps each Message-ID once. aiosmtpd calls its `handle_...`."""

    def __init__(self, ledger: Ledger, faults: Faults, delays: Delays, *, retention: int) -> None:
        self._ledger = ledger
        self._faults = faults
        self._delays = delays
        self._retention = retention

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take mail to any mailbox but those that bounce."""
        if address.startswith(BOUNCING_MAILBOX):
            return "550 5.1.1 No such mailbox"
        if len(envelope.rcpt_tos) >= MAX_RECIPIENTS:
            return "452 4.5.3 Too many recipients"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Keep the mail, or count its repetition; 451 when a drill makes the server fail."""
        fault = self._faults.draw("mail")
        if fault.latency_seconds:
            try:
                await self._delays.wait(fault.latency_seconds)
            except Problem as too_many:
                return f"451 4.3.2 {too_many.detail}"
        if fault.fails:
            return "451 4.3.0 Unavailable, try again later"
        deliveries = self._keep(envelope)
        await self._ledger.committed()
        if fault.loses_answer:
            cast(asyncio.WriteTransport, server.transport).abort()
            # Until the server has noticed, so that it answers nothing either.
            await asyncio.Event().wait()
        return "250 2.0.0 OK" if deliveries == 1 else "250 2.0.0 OK, known already"

    async def handle_exception(self, error: Exception) -> str:
        """A bug or a full disk is reported as transient, and logged."""
        log.error("mail_failed", exc_info=error)
        return "451 4.3.0 Internal error"

    def _keep(self, envelope: Envelope) -> int:
        content = cast(bytes, envelope.content)
        found = _MESSAGE_ID.search(content.partition(b"\r\n\r\n")[0])
        with self._ledger.step() as db:
            row_id, deliveries = db.execute(
                "INSERT INTO mails (message_id, sender, recipients, content, at) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (message_id) DO UPDATE SET deliveries = deliveries + 1"
                " RETURNING id, deliveries",
                (
                    found[1].decode(errors="replace") if found else f"<{new_id('mail')}@sandbox>",
                    envelope.mail_from,
                    json.dumps(envelope.rcpt_tos),
                    content,
                    now(),
                ),
            ).fetchone()
            if row_id % PRUNE_EVERY == 0:
                db.execute("DELETE FROM mails WHERE id <= ?", (row_id - self._retention,))
        return int(deliveries)


class MailServer:
    """Listens, with a bound on its sessions and on how long one may be idle."""

    def __init__(self, mailboxes: MailSink, *, connection_limit: int, timeout_seconds: float) -> None:
        self._mailboxes = mailboxes
        self._connection_limit = connection_limit
        self._timeout_seconds = timeout_seconds
        self._open: set[asyncio.BaseTransport] = set()
        self._server: asyncio.Server | None = None

    @property
    def listening(self) -> bool:
        """Whether mail can come in."""
        return self._server is not None and self._server.is_serving()

    async def listen(self, host: str, port: int) -> None:
        """Start. Raises OSError when the port is taken."""
        self._server = await asyncio.get_running_loop().create_server(self._new_session, host, port)

    async def close(self) -> None:
        """Stop listening and end the sessions."""
        if self._server is not None:
            self._server.close()
            for transport in self._open.copy():
                transport.close()
            await self._server.wait_closed()

    def _new_session(self) -> asyncio.Protocol:
        if len(self._open) >= self._connection_limit:
            return _Busy()
        return _Session(
            self._mailboxes,
            self._open,
            hostname="sandbox",
            ident="murmuration sandbox",
            data_size_limit=MAIL_LIMIT_BYTES,
            enable_SMTPUTF8=True,
            timeout=self._timeout_seconds,
            loop=asyncio.get_running_loop(),
        )


class _Session(SMTP):
    """One connection, which counts while it is open."""

    def __init__(self, mailboxes: MailSink, counted: set[asyncio.BaseTransport], **options: Any) -> None:
        super().__init__(mailboxes, **options)
        self._counted = counted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._counted.add(transport)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self.transport is not None:
            self._counted.discard(self.transport)
        super().connection_lost(error)


class _Busy(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast and not a check: uvloop's transports are none by inheritance.
        cast(asyncio.WriteTransport, transport).write(b"421 4.3.2 Too many connections, try again later\r\n")
        transport.close()


def mail_as_json(row: Row) -> dict[str, Any]:
    """A mail as `GET /mail/messages` shows it: headers decoded, the plain text, how often it arrived."""
    message = BytesParser(EmailMessage, policy=modern_policy).parsebytes(row["content"])
    text = message.get_body(("plain", "html"))
    return {
        "id": row["id"],
        "message_id": row["message_id"],
        "from": row["sender"],
        "to": json.loads(row["recipients"]),
        "subject": str(message.get("Subject", "")),
        "text": "" if text is None else "\n".join(text.get_content().splitlines()),
        "deliveries": row["deliveries"],
        "at": row["at"],
    }
