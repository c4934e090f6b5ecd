"""What people decided at a service, as its facts say: entered in the audit as they are read, once each."""

from collections.abc import Iterable
from uuid import UUID

from events.facts.payment import PaymentApproved, PaymentDeclined
from events.service import name_of
from events.storage.database import Connection
from saga_tracker.reading.batch import ReadFact

# By the fact's name, what somebody did of whom it tells.
ACTIONS = {name_of(PaymentApproved): "approved", name_of(PaymentDeclined): "rejected"}
# Read again, as by a rebuild, it is the same entry. A payment that no person declined names nobody.
_ENTER = b"""
    INSERT INTO audit (at, by, action, note, service, order_id, case_id)
    SELECT coalesce(fact.read_at, fact.stated_at), fact.body ->> 'by', given.action, fact.body ->> 'note',
        fact.stated_by, fact.order_id, fact.fact_id
    FROM unnest(%(order_ids)b::uuid[], %(fact_ids)b::uuid[], %(actions)b::text[])
        AS given (order_id, fact_id, action)
    JOIN saga_facts AS fact USING (order_id, fact_id)
    WHERE fact.body ->> 'by' IS NOT NULL
    ORDER BY 1
    ON CONFLICT (case_id) DO NOTHING
"""


async def enter(connection: Connection, facts: Iterable[ReadFact]) -> None:
    """Enter who decided, of facts that are in the view already."""
    told: list[tuple[UUID, UUID, str]] = [
        (fact.order_id, fact.fact_id, ACTIONS[fact.saga_fact.name])
        for fact in facts
        if fact.saga_fact.name in ACTIONS
    ]
    if told:
        order_ids, fact_ids, actions = zip(*told, strict=True)
        given = {"order_ids": list(order_ids), "fact_ids": list(fact_ids), "actions": list(actions)}
        await connection.execute(_ENTER, given)
