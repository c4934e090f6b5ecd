"""What people decided at a service, as its facts say: entered in the audit as they are read, once each."""

from collections.abc import Iterable

from sqlalchemy import Text, column, literal, select, values
from sqlalchemy.dialects.postgresql import insert

from events.facts.payment import PaymentApproved, PaymentDeclined
from events.service import name_of
from events.storage.database import Connection
from events.storage.sql import as_arrays, compiled, rows_of
from saga_tracker.reading.batch import ReadFact
from saga_tracker.tables import FIRST_READ_AT, audit, saga_facts

# By the fact's name, what somebody did of whom it tells.
ACTIONS = {name_of(PaymentApproved): "approved", name_of(PaymentDeclined): "rejected"}
_KEY = [saga_facts.c.order_id, saga_facts.c.fact_id]
_told = rows_of(_KEY)
_actions = values(column("name", Text), column("action", Text), name="actions", literal_binds=True).data(
    list(ACTIONS.items())
)
_by, _note = saga_facts.c.body["by"].astext, saga_facts.c.body["note"].astext
# Read again, as by a rebuild, it is the same entry. A payment that no person declined names nobody.
_ENTER = compiled(
    insert(audit)
    .from_select(
        ["at", "by", "action", "note", "service", "order_id", "case_id"],
        select(FIRST_READ_AT, _by, _actions.c.action, _note, saga_facts.c.stated_by, *_KEY)
        .join_from(saga_facts, _told, (_KEY[0] == _told.c.order_id) & (_KEY[1] == _told.c.fact_id))
        .join(_actions, saga_facts.c.wire_name.startswith(_actions.c.name + literal(".")))
        .where(_by.is_not(None))
        .order_by(FIRST_READ_AT),
    )
    .on_conflict_do_nothing(index_elements=[audit.c.case_id])
)


async def enter(connection: Connection, facts: Iterable[ReadFact]) -> None:
    """Enter who decided, of facts that are in the view already."""
    told = [(fact.order_id, fact.fact_id) for fact in facts if fact.saga_fact.name in ACTIONS]
    if told:
        await connection.execute(_ENTER, as_arrays(_KEY, told))
