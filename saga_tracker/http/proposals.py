"""The rule of two people: what one proposes, another one confirms. Within the transaction of the act."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import bindparam, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from events.http.authentication import Identity
from events.http.problems import Problem
from events.storage.database import Connection
from events.storage.sql import compiled, seconds
from saga_tracker.http import audit
from saga_tracker.http.audit import Action, Entry
from saga_tracker.tables import proposals

_ABOUT = (proposals.c.action == bindparam("action")) & (proposals.c.order_id == bindparam("order_id"))
_proposed = insert(proposals).values(
    action=bindparam("action"),
    order_id=bindparam("order_id"),
    by=bindparam("by"),
    expires_at=func.now() + seconds("seconds"),
)
# A proposal that has expired is taken over by whoever proposes anew.
_PROPOSE = compiled(
    _proposed.on_conflict_do_update(
        index_elements=[proposals.c.action, proposals.c.order_id],
        set_={name: _proposed.excluded[name] for name in ("by", "expires_at")},
        where=proposals.c.expires_at <= func.now(),
    ).returning(proposals.c.expires_at)
)
_STANDING = compiled(select(proposals.c.by, proposals.c.expires_at).where(_ABOUT).with_for_update())
_DONE = compiled(delete(proposals).where(_ABOUT))


@dataclass(frozen=True, slots=True)
class Proposal:
    """What waits for somebody else, by whom it was proposed, and until when it stands."""

    by: str
    expires_at: datetime


async def second(
    connection: Connection, action: Action, order_id: UUID, who: Identity, note: str, seconds: int
) -> Proposal | None:
    """None when this is the second person, and the act may go on; else the proposal that now stands.

    Raises Problem for the first person, who proposed it already.
    """
    about = {"action": action, "order_id": order_id, "by": who.name, "seconds": seconds}
    cursor = await connection.execute(_PROPOSE, about)
    if (row := await cursor.fetchone()) is not None:
        await audit.enter(connection, [Entry.of(who, action, note, None, order_id)])
        return Proposal(who.name, row["expires_at"])
    cursor = await connection.execute(_STANDING, about)
    row = await cursor.fetchone()
    assert row is not None, "it was there in this transaction"
    if row["by"].casefold() == who.name.casefold():
        until = row["expires_at"].isoformat(timespec="seconds")
        raise Problem(409, f"{who.name} proposed this: until {until} somebody else may confirm it")
    await connection.execute(_DONE, about)
    return None
