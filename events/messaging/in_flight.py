"""Messages on their way to the broker: each by itself, so that none waits for another's confirm."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from time import monotonic
from typing import Any, Generic
from uuid import UUID

from aio_pika.exceptions import AMQPChannelError

from events.messaging.connection import BROKER_AWAY
from events.messaging.publisher import PublishingChannels, Refused
from events.storage.outbox import RowT

Key = tuple[Any, ...]


@dataclass(slots=True)
class _Sent(Generic[RowT]):
    """A message on its way, since then by `time.monotonic`."""

    row: RowT
    task: "asyncio.Task[None]"
    at: float


@dataclass(slots=True)
class Results(Generic[RowT]):
    """What came of messages: confirmed, refused each for a reason, or the channel is lost."""

    confirmed: list[RowT] = field(default_factory=list)
    refused: list[tuple[RowT, Exception]] = field(default_factory=list)
    lost: Exception | None = None


class InFlight(Generic[RowT]):
    """Messages that wait to be sent, and those that are sent and not confirmed yet."""

    def __init__(self, react: Callable[[], None]) -> None:
        """`react` is called whenever there are results to take."""
        self.waiting: dict[Key, RowT] = {}
        self._react = react
        self._sent: dict[Key, _Sent[RowT]] = {}
        self._ids: set[UUID] = set()
        self._results: list[tuple[_Sent[RowT], Exception | None]] = []
        self._suspects: set[Key] = set()
        self._confirmed_at = 0.0

    def __len__(self) -> int:
        return len(self.waiting) + len(self._sent)

    def __contains__(self, key: Key) -> bool:
        return key in self.waiting or key in self._sent

    def send(self, channels: PublishingChannels, limit: int) -> None:
        """As many as may be in flight; of what may have closed a channel one at a time, and alone."""
        if self._suspects:
            room = 0 if self._sent else 1
            rows = [row for key, row in self.waiting.items() if key in self._suspects][:room]
        else:
            rows = list(islice(self.waiting.values(), max(0, limit - len(self._sent))))
        for row in rows:
            # Two in flight with the same id would get each other's result.
            if row.message_id not in self._ids:
                self._ids.add(row.message_id)
                del self.waiting[row.key]
                task = asyncio.create_task(self._publish(channels, row), name=f"publish {row.wire_name}")
                self._sent[row.key] = _Sent(row, task, monotonic())

    def take_results(self) -> Results[RowT]:
        """What came of them since it was asked last."""
        taken, self._results = self._results, []
        results = Results[RowT]()
        for sent, error in taken:
            if isinstance(error, BROKER_AWAY):
                # One that says why is better than one that says only that the connection is no more.
                results.lost = error if isinstance(error, AMQPChannelError) else results.lost or error
            elif self._sent.get(sent.row.key) is sent:
                self._done_with(sent.row)
                if error is None:
                    self._confirmed_at = monotonic()
                    results.confirmed.append(sent.row)
                else:
                    results.refused.append((sent.row, error))
        if isinstance(results.lost, AMQPChannelError):
            results.refused += self._suspect(results.lost)
        return results

    def give_up_late_ones(self, timeout_seconds: float) -> None:
        """What was not confirmed in time is refused, if others were; else the broker does not answer."""
        limit, why = monotonic() - timeout_seconds, f"no confirm for {timeout_seconds} s"
        for sent in self._sent.values():
            if sent.at > limit:
                return
            sent.task.cancel()
            others_passed = self._confirmed_at > sent.at
            self._results.append((sent, Refused(why) if others_passed else TimeoutError(why)))
            self._react()

    def count_anew(self) -> None:
        """The time to confirm what is sent begins now: until now the broker did not even read it."""
        now = monotonic()
        for sent in self._sent.values():
            sent.at = now

    def take_back(self) -> None:
        """What a lost connection has not confirmed is first on the next."""
        for sent in self._sent.values():
            sent.task.cancel()
        self.waiting = {key: sent.row for key, sent in self._sent.items()} | self.waiting
        self._sent.clear()
        self._ids.clear()
        self._results.clear()

    async def _publish(self, channels: PublishingChannels, row: RowT) -> None:
        result: Exception | None = None
        try:
            await channels.publish(row)
        except Exception as error:  # noqa: BLE001 - a message that nobody can publish must not stop the others
            result = error
        self._results.append((self._sent[row.key], result))
        self._react()

    def _done_with(self, row: RowT) -> None:
        del self._sent[row.key]
        self._ids.discard(row.message_id)
        self._suspects.discard(row.key)

    def _suspect(self, why: AMQPChannelError) -> list[tuple[RowT, Exception]]:
        """The broker closed the channel because of one of these: if there is but one, it is found."""
        if len(self._sent) > 1:
            self._suspects = set(self._sent)
            return []
        found: list[tuple[RowT, Exception]] = [(sent.row, why) for sent in self._sent.values()]
        for row, _ in found:
            self._done_with(row)
        return found
