"""What the tracker publishes, by way of a table: entered by the transaction that causes it, sent after that.

Several trackers may publish the same row, and one tracker a row twice. Whoever enters a message derives its
id from what caused it, so for those who hear it, it is the same message.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from events.facts.base import Fact
from events.messaging.outbox_publisher import OutboxPublisher
from events.messaging.topology import TRACKER
from events.service import EXCHANGE
from events.storage.database import Connection, Database
from events.storage.outbox import OutboxTable
from events.storage.sql import as_arrays, compiled, rows_of
from saga_tracker.settings import TrackerSettings
from saga_tracker.tables import outbox


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


def stating(
    fact: Fact, *, fact_id: UUID, causation_id: UUID | None, stated_at: datetime, traceparent: str | None
) -> Outgoing:
    """A fact of the tracker's own, to be stated to everybody."""
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
