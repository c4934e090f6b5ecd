"""The one saga of the floor as tables of constants: what follows from what, and which rows it writes, how.

Written by hand, apart from the services' own code: what makes those faster is not to move the floor. The
order is fulfilled; it is one of one line.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal

SKU = "floor"
PLACE = "place"
TRACEPARENT = "00-90041a24c79d94b35ed6df4c89f4598a-186e729650c87501-01"
ORDER_ID = "00000000-0000-4000-8000-000000000000"
CUSTOMER = "cust_00000000000000000000000000000000"
SHIPMENT_ID = "shp_00000000000000000000"
LINES = f'[{{"sku": "{SKU}", "quantity": 1, "amount_minor": 1999}}]'
_ORDER = f'"order_id":"{ORDER_ID}"'
_CUSTOMER = f'{_ORDER},"customer":"{CUSTOMER}"'
_TOKEN = '"payment_token":"tok_ok"'
_LINES = f'"lines":[{{"sku":"{SKU}","quantity":1,"amount_minor":1999}}]'

# As large as the real ones. Nobody reads them: the order is in the properties.
BODIES = {
    wire_name: "{" + body + "}"
    for wire_name, body in {
        "order.created.v2": f'{_CUSTOMER},"currency":"EUR",{_TOKEN},{_LINES}',
        "inventory.stock_reserved.v1": (
            f'{_CUSTOMER},"amount_minor":1999,"currency":"EUR",{_TOKEN},{_LINES}'
        ),
        "payment.captured.v1": f'{_CUSTOMER},"amount_minor":1999,"currency":"EUR",{_LINES}',
        "fulfillment.shipment_scheduled.v1": (
            f'{_ORDER},"shipment_id":"{SHIPMENT_ID}","deliver_on":"2026-11-24"'
        ),
        "order.confirmed.v1": f'{_CUSTOMER},"amount_minor":1999,"currency":"EUR"',
        "inventory.stock_sold.v1": _ORDER,
        "fulfillment.shipment_dispatched.v2": (f'{_ORDER},"shipment_id":"{SHIPMENT_ID}","settled_by":null'),
        "notification.customer_notified.v1": (f'{_ORDER},"ending":"confirmed","channels":["email","push"]'),
    }.items()
}
COMPARED_AFTER = "fulfillment.shipment_dispatched.v2"
# The saga is complete when all are published.
ENDINGS = {
    "inventory.stock_sold.v1",
    "fulfillment.shipment_dispatched.v2",
    "notification.customer_notified.v1",
}


@dataclass(frozen=True, slots=True)
class Step:
    """What a service does about a fact, a command, or a call that is through."""

    write: Literal["insert", "update", "nothing"]
    status: str = ""
    fact: str | None = None
    calls: tuple[str, ...] = ()


STEPS: dict[str, dict[str, Step]] = {
    "order": {
        PLACE: Step("insert", "placed", "order.created.v2"),
        "order.created.v2": Step("nothing"),
        "fulfillment.shipment_scheduled.v1": Step("update", "confirmed", "order.confirmed.v1"),
    },
    "inventory": {
        "order.created.v2": Step("insert", "reserved", "inventory.stock_reserved.v1"),
        "order.confirmed.v1": Step("update", "sold", "inventory.stock_sold.v1"),
    },
    "payment": {
        "inventory.stock_reserved.v1": Step("insert", "authorising", calls=("authorise",)),
        "authorise": Step("update", "capturing", calls=("capture",)),
        "capture": Step("update", "captured", "payment.captured.v1"),
    },
    "fulfillment": {
        "payment.captured.v1": Step("insert", "booking", calls=("book_shipment",)),
        "book_shipment": Step("update", "scheduled", "fulfillment.shipment_scheduled.v1"),
        "order.confirmed.v1": Step("update", "dispatching", calls=("dispatch_shipment",)),
        "dispatch_shipment": Step("update", "dispatched", "fulfillment.shipment_dispatched.v2"),
    },
    "notification": {
        "order.confirmed.v1": Step("insert", "sending", calls=("send_email", "send_push")),
        "send_email": Step("update", "sending"),
        "send_push": Step("update", "notified", "notification.customer_notified.v1"),
    },
}
REQUEST = f'{{"order_id": "{ORDER_ID}", "round": 1, "amount_minor": 1999, "currency": "EUR"}}'

# A service's table, and what its rows hold besides the order and its status: type and value.
Row = dict[str, tuple[str, Any]]
STATES: dict[str, tuple[str, Row]] = {
    "order": (
        "orders",
        {
            "customer": ("text", CUSTOMER),
            "currency": ("text", "EUR"),
            "lines": ("jsonb", LINES),
            "amount_minor": ("bigint", 1_999),
            "reason": ("text", None),
            "fingerprint": ("text", "0" * 64),
        },
    ),
    "inventory": ("reservations", {"units": ("jsonb", f'{{"{SKU}": 1}}')}),
    "payment": (
        "payments",
        {
            "amount_minor": ("bigint", 1_999),
            "currency": ("text", "EUR"),
            "customer": ("text", CUSTOMER),
            "payment_token": ("text", "tok_ok"),
            "lines": ("jsonb", LINES),
            "withdrawn": ("boolean", False),
            "reason": ("text", None),
            "decided_by": ("text", None),
            "decision_note": ("text", None),
            "retry_with": ("text", "void"),
            "round": ("integer", 1),
            "settled_by": ("text", None),
        },
    ),
    "fulfillment": (
        "shipments",
        {
            "customer": ("text", CUSTOMER),
            "lines": ("jsonb", LINES),
            "shipment_id": ("text", SHIPMENT_ID),
            "deliver_on": ("date", date(2026, 11, 24)),
            "withdrawn": ("boolean", False),
            "reason": ("text", None),
            "round": ("integer", 1),
            "settled_by": ("text", None),
        },
    ),
    "notification": (
        "notices",
        {
            "ending": ("text", "confirmed"),
            "email": ("text", "delivered"),
            "push": ("text", "delivered"),
            "reason": ("text", None),
            "customer": ("text", CUSTOMER),
            "cancelled_because": ("text", None),
            "email_round": ("integer", 1),
            "push_round": ("integer", 1),
            "settled_by": ("text", None),
        },
    ),
}


def rows_from_arrays(table: str, types: dict[str, str]) -> str:
    """INSERT of many rows from an array for each column; JSON goes in as text."""
    arrays = ", ".join(f"%({name})b::{'text' if kind == 'jsonb' else kind}[]" for name, kind in types.items())
    chosen = ", ".join(f"{name}::jsonb" if kind == "jsonb" else name for name, kind in types.items())
    names = ", ".join(types)
    return f"INSERT INTO {table} ({names}) SELECT {chosen} FROM unnest({arrays}) AS given ({names})"


def update_from_arrays(table: str, types: dict[str, str]) -> str:
    """UPDATE of many rows, each found by its order."""
    arrays = ", ".join(f"%({name})b::{'text' if kind == 'jsonb' else kind}[]" for name, kind in types.items())
    changed = ", ".join(
        f"{name} = given.{name}{'::jsonb' if kind == 'jsonb' else ''}"
        for name, kind in types.items()
        if name != "order_id"
    )
    return (
        f"UPDATE {table} SET {changed} FROM unnest({arrays}) AS given ({', '.join(types)})"
        f" WHERE {table}.order_id = given.order_id"
    )


ENTER_INBOX = """
    INSERT INTO inbox (fact_id) SELECT fact_id FROM unnest(%(fact_ids)b::uuid[]) AS given (fact_id)
    ORDER BY fact_id ON CONFLICT DO NOTHING RETURNING fact_id
"""
SETTLE_CALLS = "DELETE FROM calls WHERE call_id = ANY(%(call_ids)b) RETURNING call_id"
LOCK_STOCK = """
    SELECT sku, available, reserved, sold FROM stock WHERE sku = ANY(%(skus)b) ORDER BY sku FOR UPDATE
"""
MOVE_STOCK = """
    UPDATE stock SET available = available - %(reserved)s, reserved = reserved + %(reserved)s - %(sold)s,
        sold = sold + %(sold)s WHERE sku = ANY(%(skus)b)
"""
STATE = rows_from_arrays(
    "outbox",
    {
        "fact_id": "uuid",
        "owner": "integer",
        "wire_name": "text",
        "order_id": "uuid",
        "body": "text",
        "stated_at": "timestamptz",
        "causation_id": "uuid",
        "traceparent": "text",
    },
)
CALL = rows_from_arrays(
    "calls",
    {
        "call_id": "uuid",
        "owner": "integer",
        "name": "text",
        "order_id": "uuid",
        "request": "jsonb",
        "traceparent": "text",
    },
)
NO_FSYNC = "SET LOCAL synchronous_commit = off"
FORGET = "DELETE FROM outbox WHERE fact_id = ANY(%(fact_ids)b)"

BECOME_WRITER = ["SET LOCAL lock_timeout = '2s'", "SELECT pg_advisory_xact_lock(20413)"]
POSITION = "SELECT stream_offset, message_id, reading FROM stream_position"
ENTER_FACTS = (
    rows_from_arrays(
        "saga_facts",
        {
            "order_id": "uuid",
            "fact_id": "uuid",
            "wire_name": "text",
            "stated_by": "text",
            "causation_id": "uuid",
            "stated_at": "timestamptz",
            "dated": "boolean",
            "traceparent": "text",
            "stream_offset": "bigint",
            "body": "jsonb",
        },
    )
    + " ON CONFLICT DO NOTHING RETURNING order_id, fact_id"
)
FACTS_OF = """
    SELECT order_id, fact_id, wire_name, stated_at, dated, traceparent,
        coalesce(body ->> 'reason', body ->> 'waiting_for') AS reason, body ->> 'ending' AS ending,
        body ->> 'service' AS service, coalesce(body ->> 'redriven_id', body ->> 'because_of_id') AS about,
        causation_id
    FROM saga_facts WHERE order_id = ANY(%(order_ids)b)
"""
_SAGA_TYPES = {
    "order_id": "uuid",
    "state": "text",
    "since": "timestamptz",
    "waits": "jsonb",
    "waiting_for": "jsonb",
    "timed_out": "boolean",
    "started_at": "timestamptz",
    "ended_at": "timestamptz",
    "reason": "text",
    "trace_id": "text",
    "fact_count": "integer",
    "due_at": "timestamptz",
}
SHOW = (
    rows_from_arrays("sagas", _SAGA_TYPES)
    + " ON CONFLICT (order_id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _SAGA_TYPES if name != "order_id")
)
COMPARE_LATER = """
    INSERT INTO comparisons (order_id) SELECT unnest(%(order_ids)b::uuid[])
    ON CONFLICT (order_id) DO UPDATE SET waiting_since = now()
"""
MOVE = """
    UPDATE stream_position
    SET stream_offset = %(stream_offset)s, message_id = %(message_id)s, moved_at = now()
"""
_WAITS = (
    '[{"service": "fulfillment", "facts": ["fulfillment.shipment_scheduled", '
    '"fulfillment.shipment_rejected"], "since": "2026-11-21T20:36:49.772604+00:00", "because_of": '
    f'"payment.captured", "because_of_id": "{ORDER_ID}", "person": false, "due_at": '
    '"2026-11-21T20:36:57.772604+00:00", "redriven_at": null, "overdue_at": null}]'
)
_WAITING_FOR = '["fulfillment", "fulfillment.shipment_scheduled", "fulfillment.shipment_rejected"]'


def saga_row(wire_name: str, now: datetime) -> dict[str, Any]:
    """What is shown of a saga whose last fact is this one."""
    ended = wire_name in ENDINGS
    return {
        "state": "COMPLETED" if ended else "PENDING_SHIPMENT",
        "since": now,
        "waits": "[]" if ended else _WAITS,
        "waiting_for": "[]" if ended else _WAITING_FOR,
        "timed_out": False,
        "started_at": now,
        "ended_at": now if ended else None,
        "reason": None,
        "trace_id": TRACEPARENT[3:35],
        "fact_count": 7,
        "due_at": None if ended else now.astimezone(UTC),
    }
