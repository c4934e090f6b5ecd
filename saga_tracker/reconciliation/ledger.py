"""Follows the provider's ledger, an entry once, into a table of the tracker's own."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, delete, exists, not_, select, update
from sqlalchemy.dialects.postgresql import insert

from events.storage.database import Connection, Database
from events.storage.sql import as_arrays, compiled, rows_of
from events.telemetry.log import log
from saga_tracker.reading import repository
from saga_tracker.reconciliation.comparisons import COMPARE_MOVED
from saga_tracker.reconciliation.parties import Entry, Parties
from saga_tracker.tables import ledger_entries, ledger_position, tombstones

_POSITION = compiled(select(ledger_position.c.entry_id, ledger_position.c.entry))
_MOVE = compiled(
    update(ledger_position).values(
        {
            name: bindparam(f"last_{name}", type_=ledger_position.c[name].type)
            for name in ("entry_id", "entry")
        }
    )
)
_COLUMNS = list(ledger_entries.c)
_moved = rows_of(_COLUMNS)
_ENTER = compiled(
    insert(ledger_entries)
    .from_select(
        [column.name for column in _COLUMNS],
        select(*_moved.c).where(not_(exists().where(tombstones.c.order_id == _moved.c.order_id))),
    )
    .on_conflict_do_nothing()
)
_FORGET = compiled(delete(ledger_entries))


class LedgerFollower:
    """Reads what is new in the ledger. Several trackers may: entries count once."""

    def __init__(self, database: Database, parties: Parties, page_size: int, max_pages: int) -> None:
        self._database = database
        self._parties = parties
        self._page_size = page_size
        self._max_pages = max_pages

    async def follow(self) -> bool:
        """Read up to the end, at most so many pages; answers whether the end was reached.

        Raises NoAnswer, AnotherWrites when a rebuild of the view holds this up, and one of AWAY.
        """
        for _ in range(self._max_pages):
            known = (await self._database.rows(_POSITION))[0]
            after: int = known["entry_id"]
            # From the last one on that is known: to see that this is still the same ledger.
            page = await self._parties.ledger_page(max(0, after - 1), self._page_size)
            entries = page.entries
            if after:
                if not entries or text_of(entries[0]) != known["entry"]:
                    await self._begin_anew(after)
                    continue
                entries = entries[1:]
            if entries:
                await self._enter(entries)
            if page.next_after is None:
                return True
        return False

    async def _enter(self, entries: Sequence[Entry]) -> None:
        # Whoever tried the provider by hand used references of their own.
        of_orders = [
            (entry, order_id) for entry in entries if (order_id := order_of(entry.reference)) is not None
        ]
        rows = [
            (entry.id, order_id, entry.kind, entry.amount_minor, entry.currency)
            for entry, order_id in of_orders
        ]
        last = entries[-1]
        async with self._database.transaction() as connection:
            await repository.lock(connection)
            await _execute_all(
                connection,
                (_ENTER, as_arrays(_COLUMNS, rows)),
                (COMPARE_MOVED, {"order_ids": [order_id for _, order_id in of_orders]}),
                (_MOVE, {"last_entry_id": last.id, "last_entry": text_of(last)}),
            )

    async def _begin_anew(self, after: int) -> None:
        """What was read is of a ledger that is no more, for example of a provider that was set up anew."""
        log.warning("ledger_was_made_anew", read_up_to=after)
        async with self._database.transaction() as connection:
            await _execute_all(connection, (_FORGET, {}), (_MOVE, {"last_entry_id": 0, "last_entry": None}))


async def _execute_all(connection: Connection, *statements: tuple[bytes, dict[str, Any]]) -> None:
    for statement, parameters in statements:
        await connection.execute(statement, parameters)


def text_of(entry: Entry) -> str:
    """What tells an entry from every other, in this ledger and in another one."""
    return f"{entry.id} {entry.reference} {entry.kind} {entry.amount_minor} {entry.currency} {entry.at}"


def order_of(reference: str) -> UUID | None:
    """The order that a reference names, or None."""
    try:
        return UUID(reference)
    except ValueError:
        return None
