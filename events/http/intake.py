"""Says no to new orders in time: one that is refused is better than one that is accepted and cancelled late.

How far behind the system is shows in the oldest order that is still open although nothing placed after it has
been confirmed. Orders are handled about in their turn, so one that was overtaken waits for a reason of its
own, such as a person's approval, and says nothing of the load; and neither do a few.

While no order is taken none can overtake, so one is let in now and then: what is full of orders that all wait
for a person goes on all the same.
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

from prometheus_client.metrics_core import Metric

from events.runtime.settings import ServiceSettings
from events.storage.database import Database
from events.telemetry import metrics
from events.telemetry.log import log
from events.telemetry.metrics import gauge

LOOK_SECONDS = 1.0
# Closed above the bound, it opens again below this share of it: not to and fro.
OPENS_BELOW = 0.5


class IntakeClosed(Exception):
    """The orders that were accepted already take too long."""

    def __init__(self, oldest_seconds: float, bound_seconds: float) -> None:
        super().__init__(
            f"no new orders for now: the oldest that is under way was placed {oldest_seconds:.0f} s ago, "
            f"more than {bound_seconds:.0f} s; retry with the same Idempotency-Key"
        )


class Intake:
    """Whether one instance takes new orders.

    `oldest` is a query for the age of the oldest in seconds, and for how many are as far behind. While this
    instance is `cut_off` from the broker that says nothing of the load: what it takes waits in its outbox.
    """

    def __init__(
        self, settings: ServiceSettings, database: Database, oldest: bytes, cut_off: Callable[[], bool]
    ) -> None:
        self._bound_seconds = settings.intake_max_oldest_seconds
        self._probe_seconds = settings.intake_probe_seconds
        self._database = database
        self._query = oldest
        self._cut_off = cut_off
        self._few = settings.intake_few_orders
        self._oldest_seconds = 0.0
        self._closed = False
        self._let_in_at = float("-inf")

    @property
    def detail(self) -> dict[str, Any]:
        """What `/readyz` says of it: it is ready all the same, for everything but new orders."""
        if not self._closed:
            return {}
        return {"intake": f"closed: the oldest order was placed {self._oldest_seconds:.0f} s ago"}

    def gauges(self) -> list[Metric]:
        """How far behind it is."""
        what = "Age of the oldest open order that no confirmed one has overtaken; 0 where there are few."
        return [gauge("murmuration_intake_oldest_seconds", what, self._oldest_seconds)]

    def admit(self) -> None:
        """Raises IntakeClosed where a new order is better not accepted."""
        if self._closed:
            now = monotonic()
            if now - self._let_in_at < self._probe_seconds:
                metrics.INTAKE_REFUSED.inc()
                raise IntakeClosed(self._oldest_seconds, self._bound_seconds)
            self._let_in_at = now

    async def run(self) -> None:
        """Look up how far behind it is, for ever."""
        while True:
            found = await self._database.rows_when_back(self._query)
            few = found[0]["orders"] <= self._few
            self._oldest_seconds = 0.0 if few else max(0.0, found[0]["oldest_seconds"])
            self._judge()
            await asyncio.sleep(LOOK_SECONDS)

    def _judge(self) -> None:
        bound = self._bound_seconds * (OPENS_BELOW if self._closed else 1.0)
        closed = self._bound_seconds > 0 and self._oldest_seconds > bound and not self._cut_off()
        if closed != self._closed:
            self._closed = closed
            say, event = (log.warning, "intake_closed") if closed else (log.info, "intake_opened")
            say(event, oldest_seconds=round(self._oldest_seconds, 1), bound_seconds=self._bound_seconds)
