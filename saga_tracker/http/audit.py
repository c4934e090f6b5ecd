"""Who did what about dead letters and manual cases, and when. Entered with the act, in one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal, Self
from uuid import UUID

from sqlalchemy import Select, bindparam, select
from sqlalchemy.dialects.postgresql import insert

from events.http.authentication import Identity
from events.http.tokens import Role
from events.storage.database import Connection
from events.storage.sql import array_of, as_arrays, compiled, rows_of
from saga_tracker.tables import audit

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
