"""The rule of two people: what one proposes, another one confirms. Within the transaction of the act."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from events.http.authentication import Identity
from events.http.problems import Problem
from events.storage.database import Connection
from saga_tracker.http import audit
from saga_tracker.http.audit import Action, Entry

# A proposal that has expired is taken over by whoever proposes anew.
_PROPOSE = b"""
    INSERT INTO proposals (action, order_id, by, expires_at)
    VALUES (%(action)s, %(order_id)s, %(by)s, now() + make_interval(secs => %(seconds)s))
    ON CONFLICT (action, order_id) DO UPDATE SET by = excluded.by, expires_at = excluded.expires_at
    WHERE proposals.expires_at <= now()
    RETURNING expires_at
"""
_STANDING = (
    b"SELECT by, expires_at FROM proposals WHERE action = %(action)s AND order_id = %(order_id)s FOR UPDATE"
)
_DONE = b"DELETE FROM proposals WHERE action = %(action)s AND order_id = %(order_id)s"


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
