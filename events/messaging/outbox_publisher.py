"""Publishes an outbox: at once after each commit, and again after a crash, until the broker confirms.

Each message is on its way by itself. One that cannot be encoded, or that the broker refuses, routes to nobody
or never confirms, is set aside (see `outbox.py`), and everything else passes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic

from aio_pika.exceptions import AMQPChannelError

from events.messaging.connection import BROKER_AWAY, Blocked, lost_means_away
from events.messaging.in_flight import InFlight, Key
from events.messaging.publisher import PublishingChannels, Refused, Unroutable, publishing_channels
from events.runtime.crash import crash_point
from events.runtime.settings import ProcessSettings
from events.storage.outbox import OutboxTable, RowT
from events.telemetry.log import Outage, log
from events.telemetry.redaction import in_words


class OutboxPublisher(Generic[RowT]):
    """One per process, with its own connection to the broker."""

    def __init__(
        self,
        settings: ProcessSettings,
        table: OutboxTable[RowT],
        name: str,
        *,
        user: str | None = None,
        adopt: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        """`user` is named on every message, for the broker to vouch for.

        `adopt` takes over what dead instances left, and says how much; without it the table is shared.
        """
        self._settings = settings
        self._table = table
        self._name = name
        self._adopt = adopt
        self._user = user
        self._outage = Outage("broker, for publishing")
        self._wake = asyncio.Event()
        self._in_flight = InFlight[RowT](self._wake.set)
        self._probes: set[Key] = set()
        self._confirmed: list[Key] = []
        self._forgetting = asyncio.Lock()
        self._some_confirmed = asyncio.Event()
        self._more_in_table = adopt is None
        self._some_due = False
        self._spilled = 0
        self.connected = False
        self.blocked = Blocked(name, self._take_note_of_blocking)
        self.set_aside = 0

    @property
    def idle(self) -> bool:
        """Whether everything handed over so far is confirmed and forgotten, but for what is set aside."""
        return not (self._in_flight or self._more_in_table or self._confirmed)

    @property
    def backlog(self) -> int:
        """How many committed messages are not published yet, as far as this instance knows."""
        return len(self._in_flight) + self._spilled + self.set_aside

    def hand_over(self, rows: Sequence[RowT]) -> None:
        """Take committed rows; past the memory bound they stay in the table until there is room."""
        if self._more_in_table or len(self._in_flight.waiting) + len(rows) > self._settings.relay_memory:
            self._more_in_table = True
            self._spilled += len(rows)
        else:
            self._in_flight.waiting.update((row.key, row) for row in rows)
        self._wake.set()

    def look_in_table(self) -> None:
        """Look for rows that were committed without being handed over."""
        self._more_in_table = True
        self._wake.set()

    async def run(self) -> None:
        """Publish for ever; wait for a broker that is away."""
        while True:
            try:
                with lost_means_away():
                    async with publishing_channels(self._settings, self._name, self._user) as channels:
                        self.connected = True
                        self._outage.ended()
                        await self._publish_over(channels)
            except BROKER_AWAY as error:
                self._outage.began(error)
            finally:
                self.connected = False
                self._in_flight.take_back()
            await asyncio.sleep(self._settings.reconnect_seconds)

    async def sweep(self) -> None:
        """Look after what is left over, set aside or never confirmed: periodically."""
        while True:
            if self._adopt is None:
                self.look_in_table()
            else:
                await self.adopt()
            aside = await self._table.look_aside()
            self.set_aside, self._some_due = aside.count, aside.due
            if not self.blocked:
                self._in_flight.give_up_late_ones(self._settings.publish_timeout_seconds)
            if self._some_due:
                self._wake.set()
            await asyncio.sleep(self._settings.sweep_seconds)

    async def adopt(self) -> None:
        """Take over what dead instances left; from now on it counts as this one's backlog."""
        if self._adopt is not None and (adopted := await self._adopt()):
            self._spilled += adopted
            self.look_in_table()

    async def forget(self) -> None:
        """Delete confirmed rows, in bulk: a moment's worth at a time."""
        while True:
            await self._some_confirmed.wait()
            await asyncio.sleep(self._settings.forget_after_seconds)
            self._some_confirmed.clear()
            await self._forget_confirmed()

    async def _publish_over(self, channels: PublishingChannels) -> None:
        """Until the channel is lost. No task ends unseen: what ends one of these is raised."""
        watching = asyncio.create_task(self.blocked.watch(channels.connection), name="watch for blocking")
        publishing = asyncio.create_task(self._publish_for_ever(channels), name="publish")
        both = (watching, publishing)
        try:
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()
        finally:
            for task in both:
                task.cancel()
            await asyncio.wait(both)

    def _take_note_of_blocking(self) -> None:
        self._in_flight.count_anew()
        self._wake.set()

    def _send(self, channels: PublishingChannels) -> None:
        """What is sent while the broker reads nothing only fills buffers on the way."""
        self._in_flight.send(channels, 0 if self.blocked else self._settings.relay_in_flight)

    async def _publish_for_ever(self, channels: PublishingChannels) -> None:
        """Until the channel is lost, be it while idle. Raises one of BROKER_AWAY then."""
        channels.on_close(self._wake.set)
        self._wake.set()  # for what the connection before this one left unconfirmed
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._take_results()
            if channels.is_closed:
                raise ConnectionError("connection lost")
            if self._some_due:
                await self._probe()
            self._send(channels)
            while self._more_in_table and not self._in_flight:
                await self._refill()
                self._send(channels)

    async def _take_results(self) -> None:
        """Note what is confirmed, and set aside what is refused. Raises when the channel is no good."""
        results = self._in_flight.take_results()
        released = {row.routing_key for row in results.confirmed if row.key in self._probes}
        refused = [(row, self._report(row, error)) for row, error in results.refused]
        self._probes -= {row.key for row in results.confirmed}
        self._probes -= {row.key for row, _ in refused}
        if results.confirmed:
            self._confirmed += [row.key for row in results.confirmed]
            self._some_confirmed.set()
        if self._adopt is None:
            # Who enters the same message again wants it sent again, which it is once its row is gone.
            await self._forget_confirmed()
        await self._note_in_table(refused, released)
        if results.lost is not None:
            raise results.lost
        if results.confirmed:
            crash_point("after_publish")

    def _report(self, row: RowT, error: Exception) -> str:
        why = in_words(error) or type(error).__name__
        unforeseen = None if isinstance(error, Refused | AMQPChannelError) else error
        log.error(
            _event_of(error, again=row.key in self._probes),
            exchange=row.exchange,
            routing_key=row.routing_key,
            fact_id=str(row.message_id),
            order_id=str(row.order_id),
            why=why,
            exc_info=unforeseen,
        )
        return why

    async def _note_in_table(self, refused: list[tuple[RowT, str]], released: set[str]) -> None:
        pause, cap = self._settings.refused_pause_seconds, self._settings.refused_pause_cap_seconds
        until_done = self._table.database.until_done
        if refused:
            await until_done(lambda: self._table.set_aside(refused, pause_seconds=pause, cap_seconds=cap))
            self.set_aside += len(refused)
        if released:
            await until_done(lambda: self._table.release(sorted(released)))
            self.look_in_table()

    async def _probe(self) -> None:
        """Take one of each kind that is set aside, whose pause is over."""
        self._some_due = False
        known = set(self._confirmed)
        for row in await self._table.read_due(self._settings.relay_in_flight):
            if row.key not in known and row.key not in self._in_flight:
                self._in_flight.waiting[row.key] = row
                self._probes.add(row.key)

    async def _refill(self) -> None:
        """Read what is in the table only. What is confirmed must be gone from there first."""
        await self._forget_confirmed()
        self._more_in_table = False
        limit = self._settings.relay_memory
        found = await self._table.read(limit)
        self._more_in_table = self._more_in_table or len(found) == limit
        self._spilled = max(0, self._spilled - len(found)) if self._more_in_table else 0
        self._in_flight.waiting.update((row.key, row) for row in found)

    async def _forget_confirmed(self) -> None:
        async with self._forgetting:
            count = len(self._confirmed)
            if count:
                await self._table.database.until_done(lambda: self._table.forget(self._confirmed[:count]))
                del self._confirmed[:count]
                crash_point("after_forget")


def _event_of(error: Exception, *, again: bool) -> str:
    if again:
        return "still_refused"
    return "unroutable_fact" if isinstance(error, Unroutable) else "message_refused"
