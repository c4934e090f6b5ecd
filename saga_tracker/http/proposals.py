"""The rule of two people: what one proposes, another one confirms. Within the transaction of the act."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import bindparam, delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert

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
    content=bindparam("content", type_=proposals.c.content.type),
)
# A proposal that has expired is taken over by whoever proposes anew, and so is one of something else.
_PROPOSE = compiled(
    _proposed.on_conflict_do_update(
        index_elements=[proposals.c.action, proposals.c.order_id],
        set_={name: _proposed.excluded[name] for name in ("by", "expires_at", "content")},
        where=or_(
            proposals.c.expires_at <= func.now(),
            proposals.c.content.is_distinct_from(_proposed.excluded.content),
        ),
    ).returning(proposals.c.expires_at)
)
_STANDING = compiled(select(proposals.c.by, proposals.c.expires_at).where(_ABOUT).with_for_update())
_SEEN = compiled(
    select(proposals.c.by, proposals.c.expires_at, proposals.c.content).where(
        _ABOUT, proposals.c.expires_at > func.now()
    )
)
_DONE = compiled(delete(proposals).where(_ABOUT))


@dataclass(frozen=True, slots=True)
class Proposal:
    """What waits for somebody else, by whom it was proposed, and until when it stands."""

    by: str
    expires_at: datetime
    content: bytes | None = None


async def standing(connection: Connection, action: Action, about_id: UUID) -> Proposal | None:
    """What was proposed about an order or a dead letter and still waits for somebody else."""
    cursor = await connection.execute(_SEEN, {"action": action, "order_id": about_id})
    row = await cursor.fetchone()
    return Proposal(**row) if row else None


async def second(
    connection: Connection,
    entry: Entry,
    about_id: UUID,
    *,
    for_seconds: int,
    content: bytes | None = None,
) -> Proposal | None:
    """None when this is the second person, and the act may go on; else the proposal that now stands.

    `entry` is the proposal's in the audit, about an order or a dead letter; `content` what is proposed, where
    there are several possibilities. Raises Problem for the first person, who proposed it already.
    """
    about = {"action": entry.action, "order_id": about_id, "by": entry.by, "seconds": for_seconds}
    cursor = await connection.execute(_PROPOSE, about | {"content": content})
    if (row := await cursor.fetchone()) is not None:
        await audit.enter(connection, [entry])
        return Proposal(entry.by, row["expires_at"], content)
    cursor = await connection.execute(_STANDING, about)
    row = await cursor.fetchone()
    assert row is not None, "it was there in this transaction"
    if row["by"].casefold() == entry.by.casefold():
        until = row["expires_at"].isoformat(timespec="seconds")
        raise Problem(409, f"{entry.by} proposed this: until {until} somebody else may confirm it")
    await connection.execute(_DONE, about)
    return None
