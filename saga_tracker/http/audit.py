"""Who did what about dead letters and manual cases, and when. Entered with the act, in one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any, Literal, Self
from uuid import UUID

from sqlalchemy import Select, bindparam, delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert

from events.http.authentication import Identity
from events.http.problems import Problem
from events.http.tokens import Role
from events.storage.database import Connection
from events.storage.sql import array_of, as_arrays, compiled, rows_of, seconds
from saga_tracker.tables import audit, proposals

Action = Literal[
    "replayed",
    "discarded",
    "edit_proposed",
    "edited",
    "retry_requested",
    "settlement_proposed",
    "settled",
    "sent_again",
    "resolved",
    "cancelled",
    "claimed",
    "unclaimed",
    "noted",
]


@dataclass(frozen=True, slots=True)
class Entry:
    """One act. `case_id` is the fact by which a service failed, when the act is the answer to it."""

    by: str
    role: Role
    signed_in_by: str
    action: Action
    note: str | None = None
    service: str | None = None
    order_id: UUID | None = None
    letter_id: UUID | None = None
    case_id: UUID | None = None

    @classmethod
    def of(cls, who: Identity, action: Action, *about: Any) -> Self:
        """What somebody did, about the fields that follow."""
        return cls(who.name, who.role, who.signed_in_by, action, *about)


_COLUMNS = [audit.c[name] for name in Entry.__slots__]
_row_of = attrgetter(*Entry.__slots__)
_ENTER = compiled(
    insert(audit)
    .from_select([column.name for column in _COLUMNS], select(*rows_of(_COLUMNS).c))
    .on_conflict_do_nothing(index_elements=[audit.c.case_id])
    .returning(audit.c.case_id)
)
_ANSWERED = compiled(
    select(audit.c.case_id, audit.c.action, audit.c.by, audit.c.at).where(
        audit.c.case_id == array_of("case_ids", audit.c.case_id).any_()
    )
)
_BY_ORDER = audit.c.order_id == bindparam("order_id")
_BY_DEAD_LETTER = audit.c.letter_id == bindparam("letter_id")
_BEFORE = audit.c.entry_id < bindparam("before")


def _newest(*criteria: Any) -> bytes:
    query: Select[Any] = select(*audit.c).where(*criteria)
    return compiled(query.order_by(audit.c.entry_id.desc()).limit(bindparam("row_limit")))


_PAGES = {
    (False, False): _newest(),
    (False, True): _newest(_BEFORE),
    (True, False): _newest(_BY_ORDER),
    (True, True): _newest(_BY_ORDER, _BEFORE),
}
_OF_DEAD_LETTER = _newest(_BY_DEAD_LETTER)


async def enter(connection: Connection, entries: Sequence[Entry]) -> int:
    """Enter acts; says how many were. One that answers a case which has its answer already is left out."""
    if not entries:
        return 0
    cursor = await connection.execute(_ENTER, as_arrays(_COLUMNS, map(_row_of, entries)))
    return cursor.rowcount


async def answered(connection: Connection, case_ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
    """Which of these cases have been answered: how, by whom and when."""
    cursor = await connection.execute(_ANSWERED, {"case_ids": list(case_ids)})
    return {row["case_id"]: row for row in await cursor.fetchall()}


async def page(
    connection: Connection, order_id: UUID | None, before: int | None, limit: int
) -> list[dict[str, Any]]:
    """Entries, newest first, of one order or of all."""
    query = _PAGES[order_id is not None, before is not None]
    cursor = await connection.execute(query, {"order_id": order_id, "before": before, "row_limit": limit})
    return await cursor.fetchall()


async def of_dead_letter(connection: Connection, letter_id: UUID, limit: int) -> list[dict[str, Any]]:
    """Entries about one dead letter, newest first."""
    cursor = await connection.execute(_OF_DEAD_LETTER, {"letter_id": letter_id, "row_limit": limit})
    return await cursor.fetchall()


# The rule of two people: what one proposes, another one confirms. Within the transaction of the act.

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
        await enter(connection, [entry])
        return Proposal(entry.by, row["expires_at"], content)
    cursor = await connection.execute(_STANDING, about)
    row = await cursor.fetchone()
    assert row is not None, "it was there in this transaction"
    if row["by"].casefold() == entry.by.casefold():
        until = row["expires_at"].isoformat(timespec="seconds")
        raise Problem(409, f"{entry.by} proposed this: until {until} somebody else may confirm it")
    await connection.execute(_DONE, about)
    return None
