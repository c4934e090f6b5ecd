"""Publishes an outbox: at once after each commit, and again after a crash, until the broker confirms.

Each message is on its way by itself. One that cannot be encoded, or that the broker refuses, routes to nobody
or never confirms, is set aside (see `outbox.py`), and everything else passes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from time import monotonic
from typing import Any, Generic
from uuid import UUID

from aio_pika.exceptions import AMQPChannelError

from events.messaging.connection import BROKER_AWAY, lost_means_away
from events.messaging.outbox import OutboxTable, RowT
from events.messaging.publisher import PublishingChannel, Refused, Unroutable, publishing_channel
from events.runtime.crash import crash_point
from events.runtime.database import AWAY
from events.runtime.log import Outage, log
from events.runtime.settings import ProcessSettings

Key = tuple[Any, ...]


@dataclass(slots=True)
class _Sent(Generic[RowT]):
    """A message on its way, since then by `time.monotonic`."""

    row: RowT
    task: "asyncio.Task[None]"
    at: float


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
        self._waiting: dict[Key, RowT] = {}
        self._sent: dict[Key, _Sent[RowT]] = {}
        self._ids: set[UUID] = set()
        self._results: list[tuple[_Sent[RowT], Exception | None]] = []
        self._suspects: set[Key] = set()
        self._probes: set[Key] = set()
        self._confirmed: list[Key] = []
        self._confirmed_at = 0.0
        self._forgetting = asyncio.Lock()
        self._some_confirmed = asyncio.Event()
        self._more_in_table = adopt is None
        self._some_due = False
        self._spilled = 0
        self._wake = asyncio.Event()
        self.connected = False
        self.set_aside = 0

    @property
    def idle(self) -> bool:
        """Whether everything handed over so far is confirmed and forgotten, but for what is set aside."""
        return not (self._waiting or self._sent or self._more_in_table or self._confirmed)

    @property
    def backlog(self) -> int:
        """How many committed messages are not published yet, as far as this instance knows."""
        return len(self._waiting) + len(self._sent) + self._spilled + self.set_aside

    def hand_over(self, rows: Sequence[RowT]) -> None:
        """Take committed rows; past the memory bound they stay in the table until there is room."""
        if self._more_in_table or len(self._waiting) + len(rows) > self._settings.relay_memory:
            self._more_in_table = True
            self._spilled += len(rows)
        else:
            self._waiting.update((row.key, row) for row in rows)
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
                    async with publishing_channel(self._settings, self._name, self._user) as channel:
                        self.connected = True
                        self._outage.ended()
                        await self._publish_for_ever(channel)
            except BROKER_AWAY as error:
                self._outage.began(error)
            finally:
                self.connected = False
                self._take_back()
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
            self._give_up_late_ones()
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

    async def _publish_for_ever(self, channel: PublishingChannel) -> None:
        """Until the channel is lost, be it while idle. Raises one of BROKER_AWAY then."""
        channel.on_close(self._wake.set)
        self._wake.set()  # for what the connection before this one left unconfirmed
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._take_results()
            if channel.is_closed:
                raise ConnectionError("connection lost")
            if self._some_due:
                await self._probe()
            self._send_some(channel)
            while self._more_in_table and not self._waiting and not self._sent:
                await self._refill()
                self._send_some(channel)

    def _send_some(self, channel: PublishingChannel) -> None:
        """As many as may be in flight; of what may have closed a channel one at a time, and alone."""
        if self._suspects:
            room = 0 if self._sent else 1
            rows = [row for key, row in self._waiting.items() if key in self._suspects][:room]
        else:
            room = self._settings.relay_in_flight - len(self._sent)
            rows = list(islice(self._waiting.values(), max(0, room)))
        for row in rows:
            # Two in flight with the same id would be told each other's fate.
            if row.message_id not in self._ids:
                self._ids.add(row.message_id)
                del self._waiting[row.key]
                task = asyncio.create_task(self._publish(channel, row), name=f"publish {row.wire_name}")
                self._sent[row.key] = _Sent(row, task, monotonic())

    async def _publish(self, channel: PublishingChannel, row: RowT) -> None:
        result: Exception | None = None
        try:
            await channel.publish(row)
        except Exception as error:  # noqa: BLE001 - a row that nobody can publish must not stop the others
            result = error
        self._results.append((self._sent[row.key], result))
        self._wake.set()

    async def _take_results(self) -> None:
        """Note what is confirmed, and set aside what is refused. Raises when the channel is no good."""
        results, self._results = self._results, []
        refused: list[tuple[RowT, str]] = []
        released: set[str] = set()
        lost: Exception | None = None
        for sent, result in results:
            if isinstance(result, BROKER_AWAY):
                lost = lost or result
            elif self._sent.get(sent.row.key) is sent:
                self._done_with(sent.row)
                if result is not None:
                    refused.append((sent.row, self._why(sent.row, result)))
                else:
                    self._confirmed.append(sent.row.key)
                    self._confirmed_at = monotonic()
                    if sent.row.key in self._probes:
                        released.add(sent.row.routing_key)
                self._probes.discard(sent.row.key)
        if isinstance(lost, AMQPChannelError):
            refused += self._suspect(lost)
        await self._note_in_table(refused, released)
        if self._confirmed:
            self._some_confirmed.set()
        if lost is not None:
            raise lost
        crash_point("after_publish")

    def _done_with(self, row: RowT) -> None:
        del self._sent[row.key]
        self._ids.discard(row.message_id)
        self._suspects.discard(row.key)

    def _suspect(self, why: AMQPChannelError) -> list[tuple[RowT, str]]:
        """The broker closed the channel because of one of these: if there is but one, it is found."""
        if len(self._sent) > 1:
            self._suspects = set(self._sent)
            return []
        found = [(sent.row, self._why(sent.row, why)) for sent in self._sent.values()]
        for row, _ in found:
            self._done_with(row)
        return found

    def _why(self, row: RowT, error: Exception) -> str:
        why = str(error) or type(error).__name__
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
        while refused or released:
            try:
                if refused:
                    await self._table.set_aside(refused, pause_seconds=pause, cap_seconds=cap)
                    self.set_aside += len(refused)
                    refused = []
                if released:
                    await self._table.release(sorted(released))
                    released = set()
                    self.look_in_table()
            except AWAY as error:
                await self._table.database.wait_until_back(error)

    def _give_up_late_ones(self) -> None:
        """What was not confirmed in time is set aside if others were; else the broker does not answer."""
        limit = monotonic() - self._settings.publish_timeout_seconds
        for sent in list(self._sent.values()):
            if sent.at > limit:
                return
            sent.task.cancel()
            seconds = self._settings.publish_timeout_seconds
            passed = self._confirmed_at > sent.at
            why = f"no confirm for {seconds} s"
            self._results.append((sent, Refused(why) if passed else TimeoutError(why)))
            self._wake.set()

    async def _probe(self) -> None:
        """Take one of each kind that is set aside, whose pause is over."""
        self._some_due = False
        known = set(self._confirmed)
        for row in await self._table.read_due(self._settings.relay_in_flight):
            if row.key not in known and row.key not in self._sent:
                self._waiting.setdefault(row.key, row)
                self._probes.add(row.key)

    async def _refill(self) -> None:
        """Read what is in the table only. What is confirmed must be gone from there first."""
        await self._forget_confirmed()
        self._more_in_table = False
        limit = self._settings.relay_memory
        found = await self._table.read(limit)
        self._more_in_table = self._more_in_table or len(found) == limit
        self._spilled = max(0, self._spilled - len(found)) if self._more_in_table else 0
        self._waiting.update((row.key, row) for row in found)

    def _take_back(self) -> None:
        """What the lost connection has not confirmed is first on the next."""
        for sent in self._sent.values():
            sent.task.cancel()
        self._waiting = {key: sent.row for key, sent in self._sent.items()} | self._waiting
        self._sent.clear()
        self._ids.clear()
        self._results.clear()

    async def _forget_confirmed(self) -> None:
        async with self._forgetting:
            count = len(self._confirmed)
            while count:
                try:
                    await self._table.forget(self._confirmed[:count])
                    break
                except AWAY as error:
                    await self._table.database.wait_until_back(error)
            if count:
                del self._confirmed[:count]
                crash_point("after_forget")


def _event_of(error: Exception, *, again: bool) -> str:
    if again:
        return "still_refused"
    return "unroutable_fact" if isinstance(error, Unroutable) else "message_refused"
