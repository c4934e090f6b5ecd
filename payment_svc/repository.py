"""One row per order's money."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from events.storage.repository import OrderRepository
from payment_svc.payment import Payment

metadata = MetaData()

payments = Table(
    "payments",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("status", Text, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", Text),
    Column("customer", Text),
    Column("payment_token", Text),
    Column("lines", JSONB, nullable=False),
    Column("withdrawn", Boolean, nullable=False),
    Column("reason", Text),
    Column("decided_by", Text),
    Column("decision_note", Text),
    Column("retry_with", Text, nullable=False, server_default="void"),
    Column("round", Integer, nullable=False, server_default="1"),
    Column("settled_by", Text),
    Column("provider", Text, nullable=False, server_default="sandbox"),
    Column("provider_payment", Text),
    Column("disputed", Boolean, nullable=False, server_default="false"),
    Column("reversed", Boolean, nullable=False, server_default="false"),
    CheckConstraint("amount_minor >= 0", name="amount_not_negative"),
    CheckConstraint(
        "status = 'fenced' OR (currency IS NOT NULL AND payment_token IS NOT NULL)",
        name="charged_is_complete",
    ),
    CheckConstraint(
        "status IN ('held', 'authorising', 'authorisation_pending', 'capturing', 'captured', 'voiding', "
        "'refunding', 'refund_pending', 'crediting', 'declined', 'refunded', 'refund_failed', 'fenced')",
        name="known_status",
    ),
    CheckConstraint("retry_with IN ('void', 'refund', 'issue_credit_note')", name="known_rung"),
    # A row changes a few times, soon: with room for that in its page, its index does not.
    postgresql_with={"fillfactor": 60},
)

# By this the provider's webhooks find their order.
Index(
    "payments_provider_payment",
    payments.c.provider_payment,
    postgresql_where=text("provider_payment IS NOT NULL"),
)

PAYMENTS = OrderRepository(payments, Payment, final=("captured", "declined", "refunded", "fenced"))
