"""Stripe's webhooks as they come: signed, each event twice, in no order, and again until they are taken.

An event waits in the ledger until it was taken as often as it is to be delivered. What comes first is chance.
"""

import asyncio
import json
import time
from random import SystemRandom
from sqlite3 import Connection
from typing import Any

import stripe
from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector

from compose.sandbox.ledger import Ledger
from compose.sandbox.operations import Faults, new_id
from compose.sandbox.stripe_objects import Object
from events.telemetry.log import log

TIMES = 2
AT_ONCE = 16
LOOK_SECONDS = 0.05
TIMEOUT_SECONDS = 5.0
RETRY_CAP_SECONDS = 30.0
# What an account's endpoint is to be sent, as docs/stripe.md has it set up; Stripe sends nothing else.
EVENTS = frozenset(
    {
        "payment_intent.amount_capturable_updated",
        "payment_intent.payment_failed",
        "payment_intent.canceled",
        "refund.updated",
        "refund.failed",
        "charge.dispute.created",
    }
)
KEPT_SECONDS = 3 * 24 * 3600.0

_random = SystemRandom()


class Webhooks:
    """Delivers events to one URL, under one secret; without a URL there are none."""

    def __init__(
        self, ledger: Ledger, faults: Faults, url: str | None, secret: str, *, spread_seconds: float
    ) -> None:
        """`spread_seconds`: within so much time of its event a delivery comes, before or after others."""
        self._ledger = ledger
        self._faults = faults
        self._url = url
        self._secret = secret
        self._spread_seconds = spread_seconds
        self._turns = asyncio.Semaphore(AT_ONCE)

    def emit(self, db: Connection, kind: str, thing: Object) -> None:
        """Have an event delivered, as the object is now."""
        if self._url is None or kind not in EVENTS:
            return
        event = {
            "id": new_id("evt"),
            "object": "event",
            "api_version": None,
            "created": int(time.time()),
            "data": {"object": thing},
            "livemode": False,
            "type": kind,
        }
        late_seconds = self._faults.rule_of("provider").webhook_delay_seconds
        for _ in range(TIMES):
            due_at = time.time() + late_seconds + _random.uniform(0, self._spread_seconds)
            db.execute(
                "INSERT INTO stripe_deliveries (content, due_at, attempts, since) VALUES (?, ?, 0, ?)",
                (json.dumps(event), due_at, time.time()),
            )

    async def run(self) -> None:
        """Deliver what is due, until cancelled."""
        if self._url is None:
            return
        timeout = ClientTimeout(total=TIMEOUT_SECONDS)
        # Whoever waits for a connection would have less time for its answer: so nobody does.
        async with ClientSession(connector=TCPConnector(limit=0), timeout=timeout) as session:
            while True:
                rows = await self._ledger.rows(
                    "SELECT id, content, attempts, since FROM stripe_deliveries WHERE due_at <= ?"
                    " ORDER BY due_at LIMIT 100",
                    time.time(),
                )
                _random.shuffle(rows)
                await asyncio.gather(*(self._deliver_in_turn(session, self._url, *row) for row in rows))
                if not rows:
                    await asyncio.sleep(LOOK_SECONDS)

    async def _deliver_in_turn(self, session: ClientSession, url: str, *row: Any) -> None:
        async with self._turns:
            await self._deliver(session, url, *row)

    async def _deliver(
        self, session: ClientSession, url: str, number: int, content: str, attempts: int, since: float
    ) -> None:
        signature = stripe.WebhookSignature.generate_signature_header(content, self._secret)
        headers = {"Content-Type": "application/json; charset=utf-8", "Stripe-Signature": signature}
        try:
            async with session.post(url, data=content.encode(), headers=headers) as response:
                why = None if response.status < 300 else f"answered {response.status}"
        except (ClientError, TimeoutError) as error:
            why = type(error).__name__
        with self._ledger.step() as db:
            if why is None or time.time() > since + KEPT_SECONDS:
                db.execute("DELETE FROM stripe_deliveries WHERE id = ?", (number,))
            else:
                log.debug("webhook_not_taken", attempts=attempts + 1, why=why)
                pause_seconds = min(RETRY_CAP_SECONDS, 0.5 * 2 ** min(attempts, 10))
                db.execute(
                    "UPDATE stripe_deliveries SET attempts = attempts + 1, due_at = ? WHERE id = ?",
                    (time.time() + pause_seconds, number),
                )
