"""Sends a service the fact once more that it has to answer: to it alone, under the same id."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Text, cast, select, tuple_

from events.runtime.database import Connection
from events.runtime.sql import as_arrays, compiled, rows_of
from events.service import REDRIVE_EXCHANGE
from saga_tracker.outbox import Outgoing
from saga_tracker.steps import HEARD, name_of
from saga_tracker.tables import saga_facts

Key = tuple[UUID, UUID]

_KEY = [saga_facts.c.order_id, saga_facts.c.fact_id]
_wanted = rows_of(_KEY)
_FACTS = compiled(
    select(
        *_KEY,
        saga_facts.c.wire_name,
        saga_facts.c.stated_by,
        saga_facts.c.stated_at,
        saga_facts.c.causation_id,
        saga_facts.c.traceparent,
        saga_facts.c.stream_offset,
        cast(saga_facts.c.body, Text).label("body"),
    ).where(tuple_(*_KEY).in_(select(*_wanted.c)))
)


async def facts_at(connection: Connection, keys: Sequence[Key]) -> dict[Key, dict[str, Any]]:
    """Facts as they were read, by the ids of their orders and their own."""
    wanted = [{"order_id": order_id, "fact_id": fact_id} for order_id, fact_id in keys]
    cursor = await connection.execute(_FACTS, as_arrays(_KEY, wanted))
    return {(row["order_id"], row["fact_id"]): row for row in await cursor.fetchall()}


def was_read(fact: Mapping[str, Any]) -> bool:
    """Whether it can be sent: of a fact that was reconstructed, nobody knows what it said."""
    return bool(fact["stream_offset"] >= 0)


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


async def once_more(connection: Connection, order_id: UUID, fact_id: UUID, service: str) -> Outgoing | None:
    """The message to enter in the outbox; None where it would not help, for the service does not hear it."""
    fact = (await facts_at(connection, [(order_id, fact_id)])).get((order_id, fact_id))
    if fact is None or not was_read(fact) or (name_of(fact["wire_name"]), service) not in HEARD:
        return None
    return again(fact, service)
