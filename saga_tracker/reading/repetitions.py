"""Which of the facts that were read are new, and which contradict what is known. Pure.

What comes again is known by its id, its order and its content. A fact that has the id of another one, or that
begins an order that began otherwise, tells of no saga: the services refuse it too.
"""

from collections.abc import Mapping, MutableMapping, Sequence
from uuid import UUID

from events.facts.content import contradict
from events.facts.order import OrderCreated
from events.service import name_of
from saga_tracker.projection import SagaFact
from saga_tracker.reading.batch import ReadBatch, ReadFact, UnreadableMessage

BEGINNING = name_of(OrderCreated)


def begun_ids(batch: ReadBatch) -> list[UUID]:
    """The ids under which orders of this batch begin."""
    return [fact.fact_id for fact in batch.facts if fact.heard.name == BEGINNING]


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
            known[key] = fact.heard
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
        if same.name == fact.heard.name and not contradict(same.content, fact.content):
            return None
        return _refused(fact, "reused_message_id", f"{used} {same.name} of order {fact.order_id}")
    if fact.heard.name != BEGINNING:
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
