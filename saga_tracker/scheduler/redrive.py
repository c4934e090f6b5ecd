"""Sends a service the fact once more that it has to answer: to it alone, under the same id."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

from sqlalchemy import Text, cast, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert

from events.facts.base import Fact
from events.messaging.outbox_publisher import OutboxPublisher
from events.messaging.topology import TRACKER
from events.service import EXCHANGE, REDRIVE_EXCHANGE, name_of
from events.storage.database import Connection, Database
from events.storage.outbox import OutboxTable
from events.storage.sql import array_of, as_arrays, compiled, rows_of
from saga_tracker.settings import TrackerSettings
from saga_tracker.steps import KNOWING_THE_ORDER, SUBSCRIBED
from saga_tracker.tables import outbox, saga_facts

# --- What the tracker publishes, by way of a table: entered by the transaction that causes it, sent later
#
# Several trackers may publish the same row, and one tracker a row twice. Whoever enters a message derives
# its id from what caused it, so for those who receive it, it is the same message.


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish. Its id, its exchange and its routing key together make it one of its kind."""

    message_id: UUID
    exchange: str
    routing_key: str
    wire_name: str
    order_id: UUID
    stated_by: str
    body: str
    stated_at: datetime
    causation_id: UUID | None = None
    traceparent: str | None = None

    @property
    def key(self) -> tuple[UUID, str, str]:
        return self.message_id, self.exchange, self.routing_key


def publishing(
    fact: Fact, *, fact_id: UUID, causation_id: UUID | None, stated_at: datetime, traceparent: str | None
) -> Outgoing:
    """A fact of the tracker's own, to be published to everybody."""
    return Outgoing(
        message_id=fact_id,
        exchange=EXCHANGE,
        routing_key=fact.wire_name,
        wire_name=fact.wire_name,
        order_id=fact.order_id,
        stated_by=TRACKER,
        body=fact.model_dump_json(),
        stated_at=stated_at,
        causation_id=causation_id,
        traceparent=traceparent,
    )


_COLUMNS = [outbox.c[name] for name in Outgoing.__slots__]
_row_of = attrgetter(*Outgoing.__slots__)
_given = rows_of(_COLUMNS)
_ENTER = compiled(
    insert(outbox)
    .from_select([column.name for column in _COLUMNS], select(*_given.c))
    .on_conflict_do_nothing()
)


async def enter(connection: Connection, messages: Sequence[Outgoing]) -> None:
    """Have these published once the transaction is committed; those that are on their way already count once.

    They leave within `sweep_seconds`, or at once if `look_in_table` is called after the commit.
    """
    if messages:
        await connection.execute(_ENTER, as_arrays(_COLUMNS, map(_row_of, messages)))


Publisher = OutboxPublisher[Outgoing]


def publisher_of(settings: TrackerSettings, database: Database) -> Publisher:
    """The publisher of one tracker. Several share the table."""
    table = OutboxTable(
        database,
        outbox,
        Outgoing,
        key=[outbox.c.message_id, outbox.c.exchange, outbox.c.routing_key],
        routing_key=outbox.c.routing_key,
        age=outbox.c.entered_at,
    )
    return OutboxPublisher(settings, table, f"{TRACKER} outbox")


Key = tuple[UUID, UUID]

_KEY = [saga_facts.c.order_id, saga_facts.c.fact_id]
_wanted = rows_of(_KEY)
_AS_READ = [
    *_KEY,
    saga_facts.c.wire_name,
    saga_facts.c.stated_by,
    saga_facts.c.stated_at,
    saga_facts.c.causation_id,
    saga_facts.c.traceparent,
    saga_facts.c.stream_offset,
    cast(saga_facts.c.body, Text).label("body"),
]
_FACTS = compiled(select(*_AS_READ).where(tuple_(*_KEY).in_(select(*_wanted.c))))
_BEGINNINGS = compiled(
    select(*_AS_READ)
    .where(
        saga_facts.c.order_id == array_of("order_ids", saga_facts.c.order_id).any_(),
        func.starts_with(saga_facts.c.wire_name, "order.created."),
    )
    .order_by(saga_facts.c.stream_offset.desc())
)


async def facts_at(connection: Connection, keys: Sequence[Key]) -> dict[Key, dict[str, Any]]:
    """Facts as they were read, by the ids of their orders and their own."""
    cursor = await connection.execute(_FACTS, as_arrays(_KEY, keys))
    return {(row["order_id"], row["fact_id"]): row for row in await cursor.fetchall()}


def was_read(fact: Mapping[str, Any]) -> bool:
    """Whether it can be sent: of a fact that was reconstructed, nobody knows the payload."""
    return bool(fact["stream_offset"] >= 0)


async def beginnings(connection: Connection, order_ids: Iterable[UUID]) -> dict[UUID, dict[str, Any]]:
    """The `order.created` of these orders as it was first read, of those of which it was."""
    wanted = sorted(set(order_ids))
    if not wanted:
        return {}
    cursor = await connection.execute(_BEGINNINGS, {"order_ids": wanted})
    return {row["order_id"]: row for row in await cursor.fetchall() if was_read(row)}


def customer_of(beginning: Mapping[str, Any] | None) -> str | None:
    """Whose order it is that began so."""
    return json.loads(beginning["body"])["customer"] if beginning else None


def needs_the_beginning(wire_name: str, service: str) -> bool:
    """Whether this service can answer this fact only if it has received `order.created`."""
    return (name_of(wire_name), service) in KNOWING_THE_ORDER


def again(fact: Mapping[str, Any], service: str) -> Outgoing:
    """A fact that was read, for one service alone."""
    return Outgoing(
        message_id=fact["fact_id"],
        exchange=REDRIVE_EXCHANGE,
        routing_key=service,
        wire_name=fact["wire_name"],
        order_id=fact["order_id"],
        stated_by=fact["stated_by"],
        body=fact["body"],
        stated_at=fact["stated_at"],
        causation_id=fact["causation_id"],
        traceparent=fact["traceparent"],
    )


async def once_more(connection: Connection, order_id: UUID, fact_id: UUID, service: str) -> list[Outgoing]:
    """The messages to enter in the outbox, that of the fact itself last.

    None where it would not help, for the service does not receive it.
    """
    fact = (await facts_at(connection, [(order_id, fact_id)])).get((order_id, fact_id))
    if fact is None or (name_of(fact["wire_name"]), service) not in SUBSCRIBED:
        return []
    beginning = None
    if needs_the_beginning(fact["wire_name"], service):
        beginning = (await beginnings(connection, [order_id])).get(order_id)
    return all_again(fact, service, beginning)


def all_again(fact: Mapping[str, Any], service: str, beginning: Mapping[str, Any] | None) -> list[Outgoing]:
    """The fact for this service alone and, before it, the beginning that it cannot answer without.

    Only what was read: see `was_read`.
    """
    needed = beginning if needs_the_beginning(fact["wire_name"], service) else None
    return [again(one, service) for one in (needed, fact) if one is not None and was_read(one)]
