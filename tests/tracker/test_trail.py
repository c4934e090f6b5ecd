"""A fact's cause is the fact it came from, through a call to the outside if need be."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

from saga_tracker.trail import cause_of
from tests.tracker.told import PATHS, envelopes


def trail(names: str) -> list[dict[str, Any]]:
    """Rows as the view has them."""
    return [
        {
            "fact_id": envelope.fact_id,
            "wire_name": envelope.fact.wire_name,
            "stated_by": envelope.stated_by,
            "stated_at": envelope.stated_at,
            "causation_id": envelope.causation_id,
        }
        for envelope in envelopes(names)
    ]


def caused(rows: list[dict[str, Any]]) -> list[str | None]:
    causes = [cause_of(row, rows) for row in rows]
    return [cause.name if cause else None for cause in causes]


def test_a_causation_id_that_is_in_the_trail_names_the_cause() -> None:
    rows = trail("created reserved")
    cause = cause_of(rows[1], rows)
    assert cause is not None
    assert (cause.fact_id, cause.directly) == (rows[0]["fact_id"], True)


def test_behind_the_outcome_of_a_call_the_cause_is_what_made_it_their_turn() -> None:
    rows = trail(PATHS["carrier refuses"])
    for row in rows:
        row["causation_id"] = uuid4()
    assert caused(rows) == [
        None,
        "order.created",
        "inventory.stock_reserved",
        "payment.captured",
        "fulfillment.shipment_rejected",
        "payment.refunded",
        "inventory.stock_released",
        "order.cancelled",
    ]
    cause = cause_of(rows[1], rows)
    assert cause is not None
    assert not cause.directly


def test_a_withdrawal_that_a_person_asked_for_has_no_cause() -> None:
    rows = trail("created withdrawn")
    rows[1]["causation_id"] = uuid4()
    assert caused(rows) == [None, None]


def test_a_cause_does_not_come_after_its_effect() -> None:
    rows = trail("created reserved")
    rows[1]["causation_id"] = None
    rows[1]["stated_at"] = rows[0]["stated_at"] - timedelta(seconds=1)
    assert caused(rows) == [None, None]
