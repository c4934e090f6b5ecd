"""Compares, now and then, what ended or needs a person with what everybody else says of it.

Nothing is ever fixed here. What does not fit is listed for as long as the latest comparison found it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import bindparam, delete, exists, not_, select, update
from sqlalchemy.dialects.postgresql import insert

from events.storage.database import AWAY, CONTENTION, Connection, Database
from events.storage.sql import as_arrays, compiled, rows_of
from events.telemetry.log import Outage, log
from saga_tracker.consistency.rules import COMPARED, Difference, differences, judged
from saga_tracker.consistency.snapshot import PROVIDER, Snapshot
from saga_tracker.projection import State
from saga_tracker.reading import repository
from saga_tracker.reading.repository import AnotherWrites
from saga_tracker.reconciliation import comparisons
from saga_tracker.reconciliation.comparisons import COMPARE_MOVED, Outcome, Pace, Taken
from saga_tracker.reconciliation.look_ups import LookUps, Unseen
from saga_tracker.reconciliation.parties import Entry, NoAnswer, Parties
from saga_tracker.settings import TrackerSettings
from saga_tracker.tables import ledger_entries, ledger_position, tombstones

# The provider's ledger is followed, an entry once, into a table of the tracker's own.
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


# Beyond the time everybody asked may take: then whoever took these orders to compare them is gone.
HOLD_MARGIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Round:
    """What came of one round. `postponed` says why nothing was compared in it, if so."""

    at: datetime
    orders: int
    postponed: str | None = None


@dataclass(frozen=True, slots=True)
class _Collected:
    """All that was read of one batch of orders. Those that are not understood cannot be compared."""

    snapshot: Snapshot
    not_understood: frozenset[UUID]


class Reconciler:
    """The periodic job. Several trackers may each have one: an order is compared by one of them at a time."""

    def __init__(
        self, settings: TrackerSettings, database: Database, has_caught_up: Callable[[], Awaitable[bool]]
    ) -> None:
        self.parties = Parties(settings)
        self.last_round: Round | None = None
        self._settings = settings
        self._database = database
        self._has_caught_up = has_caught_up
        self._ledger = LedgerFollower(
            database, self.parties, settings.ledger_page_size, settings.ledger_pages
        )
        self._pace = Pace(settings.reconciliation_settle_seconds, settings.reconciliation_recheck_seconds)
        self._look_ups = LookUps(settings, database, self.parties)
        self._unseen = Unseen(
            database, self.parties, settings.reconciliation_walk_orders, settings.reconciliation_unseen_orders
        )
        self._one_at_a_time = asyncio.Lock()
        self._failure = Outage("reconciliation")

    async def run(self) -> None:
        """Compare for ever; wait for a database that is away, or is not migrated yet."""
        async with self.parties:
            while True:
                try:
                    await self._round()
                    self._failure.ended()
                except (AnotherWrites, *CONTENTION):
                    log.debug("comparisons_wait_for_another_writer")
                except AWAY as error:
                    await self._database.wait_until_back(error)
                except psycopg.Error as error:
                    if not self._failure.ongoing:
                        log.error("reconciliation_failed", exc_info=error)
                    self._failure.began(error)
                await asyncio.sleep(self._settings.reconciliation_interval_seconds)

    async def run_now(self) -> None:
        """Compare what waits without waiting longer, what did not fit, and once more what ended last.

        Raises one of AWAY.
        """
        limit = self._settings.reconciliation_batches * self._settings.reconciliation_batch_size
        try:
            async with self._database.transaction() as connection:
                await repository.lock(connection)
                await comparisons.hurry(connection, limit, self._settings.reconciliation_recent)
        except AnotherWrites as error:
            self.last_round = Round(datetime.now(UTC), 0, str(error))
        else:
            await self._round()

    async def _round(self) -> None:
        async with self._one_at_a_time:
            at = datetime.now(UTC)
            if not await self._has_caught_up():
                self.last_round = Round(at, 0, "the view is behind, or not read")
                return
            self.parties.wake()
            try:
                ledger = await self._read_ledger()
            except AnotherWrites as error:
                self.last_round = Round(at, 0, str(error))
                return
            await self._unseen.look()
            for _ in range(self._settings.reconciliation_batches):
                if await self._look_ups.some() < self._settings.reconciliation_batch_size:
                    break
            orders = 0
            for _ in range(self._settings.reconciliation_batches):
                compared = await self._batch(ledger)
                orders += compared
                if compared < self._settings.reconciliation_batch_size:
                    break
            self.last_round = Round(at, orders)

    async def _read_ledger(self) -> bool:
        """Whether the ledger is known to its end."""
        if PROVIDER not in self.parties.asked:
            return False
        try:
            return await self._ledger.follow()
        except NoAnswer:
            return False

    async def _batch(self, ledger: bool) -> int:
        """Compare some orders that wait for it; answers how many."""
        settings = self._settings
        hold = settings.reconciliation_timeout_seconds + HOLD_MARGIN_SECONDS
        async with self._database.transaction() as connection:
            taken = await comparisons.take(
                connection, self._pace.settle_seconds, hold, settings.reconciliation_batch_size
            )
        if taken is None:
            return 0
        collected = await self._collect(taken, ledger)
        outcome = self._outcome_of(taken, collected)
        async with self._database.transaction() as connection:
            certain = await comparisons.settle(connection, taken, outcome, self._pace)
        for difference in certain:
            log.warning(
                "difference",
                order_id=str(difference.order_id),
                service=difference.party,
                about=difference.about,
                expected=difference.expected,
                found=difference.found,
            )
        return len(taken.order_ids)

    def _outcome_of(self, taken: Taken, collected: _Collected) -> Outcome:
        """What these orders come to. One that cannot be compared is looked at again later, all others now."""
        compared, again, found = list[UUID](), set(collected.not_understood), list[Difference]()
        answered, asked = collected.snapshot.answered, self.parties.asked
        for order_id in taken.order_ids:
            if order_id in collected.not_understood:
                continue
            book = collected.snapshot.of(order_id)
            try:
                found += list(differences(order_id, book))
            except Exception as error:  # noqa: BLE001 - one order's trouble must not end all comparisons
                log.error("order_not_compared", order_id=str(order_id), exc_info=error)
                again.add(order_id)
                continue
            # One that moves again is left as it is until it ends.
            if book.saga is not None and book.saga.state not in COMPARED:
                continue
            compared.append(order_id)
            if asked - answered or (book.saga is not None and book.saga.state == State.NEEDS_MANUAL):
                again.add(order_id)
        return Outcome(compared, found, judged(answered, asked), again)

    async def _collect(self, taken: Taken, ledger: bool) -> _Collected:
        """The view before the services: they may know more than it, and then are looked at again."""
        async with self._database.transaction() as connection:
            sagas, not_understood = await comparisons.sagas_of(connection, taken.order_ids)
            movements = await comparisons.ledger_of(connection, taken.order_ids) if ledger else None
        states = await self.parties.states_of(taken.order_ids)
        sending = {
            order_id
            for order_id, state in states.get("notification", {}).items()
            if state.status == "sending" and order_id in sagas and sagas[order_id].state == State.COMPLETED
        }
        if sending:
            async with self._database.transaction() as connection:
                for order_id in await comparisons.retold(connection, sending):
                    sagas[order_id] = replace(sagas[order_id], retells=True)
        return _Collected(Snapshot(states=states, ledger=movements, sagas=sagas), not_understood)
