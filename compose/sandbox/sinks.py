"""Where mail and push messages end: kept for a while, shown to whoever looks, delivered to nobody."""

import json
import re
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default as modern_policy
from sqlite3 import Connection, Row
from typing import Annotated, Any

from pydantic import StringConstraints

from compose.sandbox.bodies import Body
from compose.sandbox.directory import BOUNCING_MAILBOX
from compose.sandbox.faults import Delays, Faults, Manner
from compose.sandbox.ledger import Ledger
from compose.sandbox.operations import Answer, new_id, now
from compose.sandbox.problems import Problem
from compose.sandbox.smtp import Envelope

PRUNE_EVERY = 100
_MESSAGE_ID = re.compile(rb"\r\nMessage-ID:(?:[ \t]|\r\n[ \t])*([^\s]+)", re.IGNORECASE)


class Push(Body):
    """A push message to one device."""

    device: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    title: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    text: Annotated[str, StringConstraints(min_length=1, max_length=2000)]


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

    @staticmethod
    def manner(_db: Connection, _push: Push) -> Manner:
        """Push tokens never misbehave by themselves; `PUT /faults` can make the service."""
        return Manner.WELL


class MailSink:
    """What is behind the SMTP server: keeps each Message-ID once."""

    def __init__(self, ledger: Ledger, faults: Faults, delays: Delays, *, retention: int) -> None:
        self._ledger = ledger
        self._faults = faults
        self._delays = delays
        self._retention = retention

    def has(self, address: str) -> bool:
        """Not one that bounces."""
        return not address.startswith(BOUNCING_MAILBOX)

    async def take(self, envelope: Envelope, content: bytes) -> str | None:
        """Keep the mail, or count its repetition; 451 when a drill makes the server fail."""
        fault = self._faults.draw("mail")
        if fault.latency_seconds:
            try:
                await self._delays.wait(fault.latency_seconds)
            except Problem as too_many:
                return f"451 4.3.2 {too_many.detail}"
        if fault.fails:
            return "451 4.3.0 Unavailable, try again later"
        deliveries = self._keep(envelope, content)
        await self._ledger.committed()
        if fault.loses_answer:
            return None
        return "250 2.0.0 OK" if deliveries == 1 else "250 2.0.0 OK, known already"

    def _keep(self, envelope: Envelope, content: bytes) -> int:
        with self._ledger.step() as db:
            row_id, deliveries = db.execute(
                "INSERT INTO mails (message_id, sender, recipients, content, at) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (message_id) DO UPDATE SET deliveries = deliveries + 1"
                " RETURNING id, deliveries",
                (
                    message_id_of(content) or f"<{new_id('mail')}@sandbox>",
                    envelope.sender,
                    json.dumps(envelope.recipients),
                    content,
                    now(),
                ),
            ).fetchone()
            if row_id % PRUNE_EVERY == 0:
                db.execute("DELETE FROM mails WHERE id <= ?", (row_id - self._retention,))
        return int(deliveries)


def message_id_of(content: bytes) -> str | None:
    """A mail's Message-ID. (To have the library parse the head takes a tenth of a millisecond.)"""
    head = content.partition(b"\r\n\r\n")[0]
    found = _MESSAGE_ID.search(b"\r\n" + head)
    return None if found is None else found[1].decode("ascii", "replace").strip()


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
