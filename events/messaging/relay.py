"""A service's outbox: its rows, and its publisher, the relay."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import bindparam

from events.messaging.connection import broker_user
from events.messaging.outbox_publisher import OutboxPublisher
from events.runtime.settings import ServiceSettings
from events.service import EXCHANGE
from events.storage.database import Database
from events.storage.instance import Adoption, Instance
from events.storage.outbox import OutboxTable
from events.storage.tables import outbox


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A published fact on its way to the broker: named after the columns of the table."""

    fact_id: UUID
    wire_name: str
    order_id: UUID
    body: str
    stated_at: datetime
    causation_id: UUID | None
    traceparent: str | None

    @property
    def key(self) -> tuple[UUID]:
        return (self.fact_id,)

    @property
    def message_id(self) -> UUID:
        return self.fact_id

    @property
    def exchange(self) -> str:
        return EXCHANGE

    @property
    def routing_key(self) -> str:
        return self.wire_name

    @property
    def stated_by(self) -> str:
        """A service publishes its own facts only, which are named after it."""
        return self.wire_name.partition(".")[0]


Relay = OutboxPublisher[OutboxRow]
_ADOPT = Adoption(outbox)


def relay_of(settings: ServiceSettings, database: Database, instance: Instance, service: str) -> Relay:
    """The publisher of one instance's rows."""
    table = OutboxTable(
        database,
        outbox,
        OutboxRow,
        key=[outbox.c.fact_id],
        routing_key=outbox.c.wire_name,
        age=outbox.c.stated_at,
        scope=outbox.c.owner == bindparam("me"),
        given=lambda: {"me": instance.number},
    )
    return OutboxPublisher(
        settings,
        table,
        f"{service} relay",
        user=broker_user(settings),
        adopt=lambda: instance.adopt(database, _ADOPT),
    )
