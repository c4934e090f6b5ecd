"""What was read off the stream, before it is in the view."""

from collections.abc import Mapping, MutableMapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from events.facts.base import contradict
from events.facts.order import OrderCreated
from events.service import name_of
from saga_tracker.projection import SagaFact


class ReadFact(NamedTuple):
    """A fact as it stood in the stream, and the same as the projection wants it.

    `arrived_seconds` is when that was, on this process's steady clock, and `read_at` the same on the
    database's once the recorder knows it. One that is not `dated` does not say when it was published: then
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
    saga_fact: SagaFact

    def first_read(self, at: datetime) -> "ReadFact":
        """The same, known to have been read first at that time."""
        stated_at = self.stated_at if self.dated else at
        saga_fact = self.saga_fact._replace(read_at=at, stated_at=stated_at)
        return self._replace(read_at=at, stated_at=stated_at, saga_fact=saga_fact)


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


# --- Which of the facts that were read are new, and which contradict what is known. Pure
#
# What comes again is known by its id, its order and its content. A fact that has the id of another one, or
# that
# begins an order that began otherwise, tells of no saga: the services refuse it too.


BEGINNING = name_of(OrderCreated)


def begun_ids(batch: ReadBatch) -> list[UUID]:
    """The ids under which orders of this batch begin."""
    return [fact.fact_id for fact in batch.facts if fact.saga_fact.name == BEGINNING]


def sort_out(
    batch: ReadBatch, before: Mapping[UUID, Sequence[SagaFact]], begun: Mapping[UUID, UUID]
) -> tuple[list[ReadFact], list[UnreadableMessage]]:
    """The facts that are new, once each, and those that contradict what is known.

    `before` is known of the orders of this batch; `begun` says of `begun_ids` which orders began under them.
    """
    known = {(order_id, fact.fact_id): fact for order_id, facts in before.items() for fact in facts}
    beginnings = _beginnings(before)
    orders = dict(begun)
    new: list[ReadFact] = []
    refused: list[UnreadableMessage] = []
    for fact in batch.facts:
        key = fact.order_id, fact.fact_id
        why = _contradiction(fact, known.get(key), beginnings, orders)
        if why is not None:
            refused.append(why)
        elif key not in known:
            known[key] = fact.saga_fact
            new.append(fact)
    return new, refused


def _beginnings(before: Mapping[UUID, Sequence[SagaFact]]) -> dict[UUID, list[int | None]]:
    """What the facts say with which each order began."""
    return {
        order_id: [fact.content for fact in facts if fact.name == BEGINNING]
        for order_id, facts in before.items()
    }


def _contradiction(
    fact: ReadFact,
    same: SagaFact | None,
    beginnings: MutableMapping[UUID, list[int | None]],
    orders: MutableMapping[UUID, UUID],
) -> UnreadableMessage | None:
    """What it contradicts. If nothing, it is noted in `beginnings` and `orders` where it begins an order."""
    used = f"message_id {fact.fact_id} was used for"
    if same is not None:
        if same.name == fact.saga_fact.name and not contradict(same.content, fact.content):
            return None
        return _refused(fact, "reused_message_id", f"{used} {same.name} of order {fact.order_id}")
    if fact.saga_fact.name != BEGINNING:
        return None
    order_id = orders.get(fact.fact_id, fact.order_id)
    if order_id != fact.order_id:
        return _refused(fact, "reused_message_id", f"{used} {BEGINNING} of order {order_id}")
    contents = beginnings.setdefault(order_id, [])
    if any(contradict(content, fact.content) for content in contents):
        return _refused(fact, "contradicts", f"order {order_id} began with another {BEGINNING}")
    orders[fact.fact_id] = order_id
    contents.append(fact.content)
    return None


def _refused(fact: ReadFact, reason: str, detail: str) -> UnreadableMessage:
    return UnreadableMessage(
        stream_offset=fact.stream_offset,
        reason=reason,
        detail=detail,
        message_id=str(fact.fact_id),
        wire_name=fact.wire_name,
        stated_by=fact.stated_by,
    )
