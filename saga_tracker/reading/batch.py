"""What was read off the stream, before it is in the view."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from saga_tracker.projection import SagaFact


class ReadFact(NamedTuple):
    """A fact as it stood in the stream, and the same as the projection wants it.

    `arrived_seconds` is when that was, on this process's steady clock, and `read_at` the same on the
    database's once the recorder knows it. One that is not `dated` does not say when it was stated: then
    `stated_at` is when it was read.
    """

    stream_offset: int
    order_id: UUID
    fact_id: UUID
    wire_name: str
    stated_by: str
    causation_id: UUID | None
    stated_at: datetime
    dated: bool
    traceparent: str | None
    body: str
    content: int
    read_at: datetime
    arrived_seconds: float
    heard: SagaFact

    def first_read(self, at: datetime) -> "ReadFact":
        """The same, known to have been read first at that time."""
        stated_at = self.stated_at if self.dated else at
        heard = self.heard._replace(read_at=at, stated_at=stated_at)
        return self._replace(read_at=at, stated_at=stated_at, heard=heard)


@dataclass(frozen=True, slots=True)
class UnreadableMessage:
    """A message that tells of no saga, and why."""

    stream_offset: int
    reason: str
    detail: str
    message_id: str | None
    wire_name: str | None
    stated_by: str | None


@dataclass(frozen=True, slots=True)
class ReadBatch:
    """What was read off the stream, up to and including one message."""

    last_offset: int
    last_message_id: str | None
    facts: Sequence[ReadFact] = ()
    unreadable: Sequence[UnreadableMessage] = ()

    def after(self, stream_offset: int) -> "ReadBatch":
        """Without what is known already."""
        return ReadBatch(
            self.last_offset,
            self.last_message_id,
            [fact for fact in self.facts if fact.stream_offset > stream_offset],
            [message for message in self.unreadable if message.stream_offset > stream_offset],
        )

    def without(self, order_ids: AbstractSet[UUID]) -> "ReadBatch":
        """Without the facts of these orders."""
        if not order_ids:
            return self
        facts = [fact for fact in self.facts if fact.order_id not in order_ids]
        return replace(self, facts=facts)
