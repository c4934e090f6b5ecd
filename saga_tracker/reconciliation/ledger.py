"""Follows the provider's ledger, an entry once, into a table of the tracker's own."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from events.storage.database import Connection, Database
from events.telemetry.log import log
from saga_tracker.reading import repository
from saga_tracker.reconciliation.comparisons import COMPARE_MOVED
from saga_tracker.reconciliation.parties import Entry, Parties

_POSITION = b"SELECT entry_id, entry FROM ledger_position"
_MOVE = b"UPDATE ledger_position SET entry_id = %(entry_id)s, entry = %(entry)s"
_ENTER = b"""
    INSERT INTO ledger_entries (entry_id, order_id, kind, amount_minor, currency)
    SELECT * FROM unnest(
        %(entry_ids)b::bigint[], %(order_ids)b::uuid[], %(kinds)b::text[], %(amounts_minor)b::bigint[],
        %(currencies)b::text[]) AS moved (entry_id, order_id, kind, amount_minor, currency)
    WHERE NOT EXISTS (SELECT FROM tombstones WHERE tombstones.order_id = moved.order_id)
    ON CONFLICT DO NOTHING
"""
_FORGET = b"DELETE FROM ledger_entries"


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
        order_ids = [order_id for _, order_id in of_orders]
        columns: dict[str, list[Any]] = {
            "entry_ids": [entry.id for entry, _ in of_orders],
            "order_ids": order_ids,
            "kinds": [entry.kind for entry, _ in of_orders],
            "amounts_minor": [entry.amount_minor for entry, _ in of_orders],
            "currencies": [entry.currency for entry, _ in of_orders],
        }
        async with self._database.transaction() as connection:
            await repository.lock(connection)
            await _execute_all(
                connection,
                (_ENTER, columns),
                (COMPARE_MOVED, {"order_ids": order_ids}),
                (_MOVE, {"entry_id": entries[-1].id, "entry": text_of(entries[-1])}),
            )

    async def _begin_anew(self, after: int) -> None:
        """What was read is of a ledger that is no more, for example of a provider that was set up anew."""
        log.warning("ledger_was_made_anew", read_up_to=after)
        async with self._database.transaction() as connection:
            await _execute_all(connection, (_FORGET, {}), (_MOVE, {"entry_id": 0, "entry": None}))


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
