"""A fact's cause is the fact it came from, through a call to the outside if need be."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

from saga_tracker.timeline import causation_of, why_doubtful
from tests.tracker.facts import PATHS, envelopes


def timeline(names: str) -> list[dict[str, Any]]:
    """Rows as the view has them."""
    return [
        {
            "fact_id": envelope.fact_id,
            "wire_name": envelope.fact.wire_name,
            "stated_by": envelope.stated_by,
            "stated_at": envelope.stated_at,
            "read_at": envelope.stated_at,
            "causation_id": envelope.causation_id,
        }
        for envelope in envelopes(names)
    ]


def caused(rows: list[dict[str, Any]]) -> list[str | None]:
    causes = [causation_of(row, rows) for row in rows]
    return [causation.name if causation else None for causation in causes]


def test_a_causation_id_that_is_in_the_timeline_names_the_cause() -> None:
    rows = timeline("created reserved")
    causation = causation_of(rows[1], rows)
    assert causation is not None
    assert (causation.fact_id, causation.directly) == (rows[0]["fact_id"], True)


def test_behind_the_outcome_of_a_call_the_cause_is_what_made_it_their_turn() -> None:
    rows = timeline(PATHS["carrier refuses"])
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
    causation = causation_of(rows[1], rows)
    assert causation is not None
    assert not causation.directly


def test_a_withdrawal_that_a_person_asked_for_has_no_cause() -> None:
    rows = timeline("created withdrawn")
    rows[1]["causation_id"] = uuid4()
    assert caused(rows) == [None, None]


def test_a_cause_does_not_come_after_its_effect() -> None:
    rows = timeline("created reserved")
    rows[1]["causation_id"] = None
    rows[1]["read_at"] = rows[0]["read_at"] - timedelta(seconds=1)
    assert caused(rows) == [None, None]


def test_a_date_that_cannot_be_true_is_doubtful_and_one_that_was_read_late_is_not() -> None:
    limit, hour = timedelta(seconds=30), timedelta(hours=1)

    def doubts(rows: list[dict[str, Any]]) -> list[str | None]:
        return [why_doubtful(row, causation_of(row, rows), limit) for row in rows]

    def published(rows: list[dict[str, Any]], number: int, later_by: timedelta) -> list[dict[str, Any]]:
        changed = {**rows[number], "stated_at": rows[number]["stated_at"] + later_by}
        return [*rows[:number], changed, *rows[number + 1 :]]

    rows = timeline("created reserved captured")
    assert doubts(rows) == [None, None, None]
    assert doubts([{**row, "read_at": row["read_at"] + hour} for row in rows]) == [None, None, None]
    # Who is ahead is in doubt, and nobody who came because of it; who is behind, where its cause shows it.
    assert doubts(published(rows, 0, hour)) == ["it was read before that", None, None]
    assert doubts(published(rows, 1, -hour)) == [None, "what it came from was stated after that", None]
    assert doubts(published(rows, 1, limit)) == doubts(published(rows, 1, -limit)) == [None, None, None]
