"""The inbox: each fact takes effect once, known by its id, and what comes under a known id is the same fact.

A row remembers what came under its id: the order, the fact, and its content. So a repetition stays silent,
and another fact that took an id that was used before is found out instead of being taken for one.
"""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from events.decision import Command, Contradiction
from events.facts import Fact
from events.facts.base import content_of, contradict
from events.runtime.input import Input
from events.storage.database import Session
from events.storage.round_trip import RoundTrip, Rows, prepared
from events.storage.sql import array_of, as_arrays, rows_of
from events.storage.tables import inbox

_COLUMNS = [inbox.c[name] for name in ("fact_id", "order_id", "wire_name", "content")]
_given = rows_of(_COLUMNS)
_ENTER = prepared(
    insert(inbox)
    .from_select([column.name for column in _COLUMNS], select(*_given.c).order_by(_given.c.fact_id))
    .on_conflict_do_nothing()
    .returning(inbox.c.fact_id)
)
_KNOWN = prepared(
    select(*_COLUMNS, inbox.c.heard_at).where(
        inbox.c.fact_id == array_of("fact_ids", inbox.c.fact_id).any_(), inbox.c.order_id.is_not(None)
    )
)


def enter(trip: RoundTrip, facts: Iterable[tuple[UUID, Fact | Command]]) -> Rows:
    """Have these facts entered, of which there are some; the answer are the ids that were not known.

    Of several under one id the first is entered. A command that counts once is entered by its type alone.
    """
    first: dict[UUID, Fact | Command] = {}
    for fact_id, fact in facts:
        first.setdefault(fact_id, fact)
    rows = ((fact_id, one.order_id, *_named(one)) for fact_id, one in first.items())
    return trip.add(_ENTER, **as_arrays(_COLUMNS, rows))


def _named(one: Fact | Command) -> tuple[str, int | None]:
    if isinstance(one, Fact):
        return one.wire_name, content_of(one)
    return f"command.{type(one).__name__}", None


def repeated(inputs: Sequence[Input], fresh: set[UUID]) -> list[Input]:
    """The facts that came under an id that was known, or that one before them in the batch has."""
    new = set(fresh)
    found = []
    for item in inputs:
        if item.kind == "fact":
            if item.causation_id in new:
                new.remove(item.causation_id)
            else:
                found.append(item)
    return found


async def contradictions(connection: Session, items: Sequence[Input]) -> list[tuple[Input, Exception]]:
    """Those of these facts that are not what is known under their ids, each with why.

    A row that an older release wrote, or that was forgotten in this moment, says nothing to the contrary.
    """
    trip = RoundTrip(connection)
    result = trip.add(_KNOWN, fact_ids=list({item.causation_id for item in items}))
    await trip.run()
    known = {row[0]: row[1:] for row in result.rows}
    against = (
        (item, _contradiction(item, *known[item.causation_id]))
        for item in items
        if item.causation_id in known
    )
    return [(item, Contradiction(why, reason="reused_message_id")) for item, why in against if why]


def _contradiction(item: Input, order_id: UUID, wire_name: str, content: int | None, received_at: Any) -> str:
    """What speaks against its being the fact that is known under its id; nothing, of a repetition."""
    fact: Fact = item.payload
    same_fact = (fact.order_id, _bare(fact.wire_name)) == (order_id, _bare(wire_name))
    if same_fact and (item.again or not contradict(content, content_of(fact))):
        return ""
    but = ", with other content" if same_fact else ""
    when = received_at.isoformat()
    return f"message_id {item.causation_id} was used at {when} for {wire_name} of order {order_id}{but}"


def _bare(wire_name: str) -> str:
    return wire_name.rpartition(".")[0]
