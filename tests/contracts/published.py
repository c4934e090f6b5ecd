"""One example of every fact version that was ever published, and its golden files.

A published version never changes: a new field or another meaning is a new version, with an upcaster. Golden
files of new versions are written, and those there are left alone, by

    python -m tests.contracts.published
"""

import json
from pathlib import Path
from typing import Any

from events.facts import Fact, fulfillment, order, payment, published_facts, saga
from tests.decide import given

GOLDEN = Path(__file__).with_name("golden")

# Tests of the runtime have facts of their own, which the same registry knows.
PUBLISHED = {name: fact for name, fact in published_facts().items() if fact.__module__.startswith("events.")}

ORDER_CREATED_V1 = order.OrderCreatedV1(
    order_id=given.ORDER,
    customer=given.CUSTOMER,
    sku="apple",
    quantity=2,
    amount_minor=given.AMOUNT_MINOR,
    currency="SEK",
    payment_token=given.TOKEN,
)

PAYMENT_REFUNDED_V1 = payment.PaymentRefundedV1(order_id=given.ORDER, undone_by="refund", reason="timed_out")
SHIPMENT_CANCELLED_V1 = fulfillment.ShipmentCancelledV1(order_id=given.ORDER, reason="timed_out")
SHIPMENT_DISPATCHED_V1 = fulfillment.ShipmentDispatchedV1(order_id=given.ORDER, shipment_id=given.SHIPMENT)

SAGA_TIMED_OUT_V1 = saga.SagaTimedOutV1(order_id=given.ORDER, waiting_for="payment.captured")

EXAMPLES: tuple[Fact, ...] = (
    ORDER_CREATED_V1,
    given.ORDER_CREATED,
    given.ORDER_CONFIRMED,
    given.ORDER_WITHDRAWN,
    given.ORDER_CANCELLED,
    given.STOCK_RESERVED,
    given.stock_rejected("out_of_stock", "apple", "pear"),
    given.STOCK_RELEASED,
    given.STOCK_SOLD,
    given.PAYMENT_HELD,
    given.PAYMENT_APPROVED,
    given.PAYMENT_CAPTURED,
    given.PAYMENT_DECLINED,
    PAYMENT_REFUNDED_V1,
    given.payment_refunded("person", settled_by=given.PERSON),
    given.payment_refund_failed("issue_credit_note: not_possible"),
    given.payment_pending(),
    given.payment_refund_pending(),
    given.payment_refund_reversed("refund: lost_or_stolen_card"),
    given.payment_disputed(),
    given.SHIPMENT_SCHEDULED,
    given.SHIPMENT_REJECTED,
    SHIPMENT_CANCELLED_V1,
    given.shipment_cancelled(settled_by=given.PERSON),
    given.shipment_cancel_failed("already_packed"),
    given.label_refund_rejected("refund_rejected"),
    SHIPMENT_DISPATCHED_V1,
    given.shipment_dispatched(given.PERSON),
    given.shipment_dispatch_failed("damaged"),
    given.customer_notified("confirmed", "email", "push"),
    given.notification_failed("cancelled", "email: bounced; push: no_device"),
    given.mail_bounced("confirmed", "push: no_device; email: bounced: 5.1.1"),
    given.SAGA_REDRIVEN,
    SAGA_TIMED_OUT_V1,
    given.SAGA_TIMED_OUT,
    given.SAGA_OVERDUE,
    given.APPROVAL_EXPIRED,
    given.retry_requested("payment"),
    given.settled("payment"),
)


def golden_body(kind: type[Fact]) -> Path:
    return GOLDEN / f"{kind.wire_name}.json"


def golden_schema(kind: type[Fact]) -> Path:
    return GOLDEN / f"{kind.wire_name}.schema.json"


def body_of(fact: Fact) -> str:
    """The fact as it is on the wire, spread over lines."""
    return _written(json.loads(fact.model_dump_json()))


def schema_of(kind: type[Fact]) -> str:
    """The JSON Schema of its body; without titles and descriptions, which may be reworded."""
    return _written(_without_prose(kind.model_json_schema()))


def _without_prose(schema: Any) -> Any:
    match schema:
        case dict():
            prose = {key for key in ("title", "description") if isinstance(schema.get(key), str)}
            return {key: _without_prose(part) for key, part in schema.items() if key not in prose}
        case list():
            return [_without_prose(part) for part in schema]
        case _:
            return schema


def _written(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_missing() -> list[Path]:
    """Write the golden files that are not there yet, and say which."""
    contents = {golden_body(type(fact)): body_of(fact) for fact in EXAMPLES}
    contents |= {golden_schema(type(fact)): schema_of(type(fact)) for fact in EXAMPLES}
    missing = [path for path in contents if not path.exists()]
    for path in missing:
        path.write_text(contents[path])
    return missing


if __name__ == "__main__":
    for path in write_missing():
        print(f"written: {path.name}")
