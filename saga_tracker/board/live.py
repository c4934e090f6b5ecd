"""What the pages that are open share: one look at the database and the services for all of them.

A tab has one stream. It carries which of the watched orders changed and which topics did, nothing else; the
page then asks for itself anew. While nobody looks, nothing is looked up.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from uuid import UUID

from events.http.problems import RETRY_AFTER_SECONDS, Problem
from events.storage.database import AWAY, CONTENTION, Database
from saga_tracker.availability import Availability
from saga_tracker.board import queries
from saga_tracker.board.health import ServiceHealth, looked_up
from saga_tracker.reading.reader import Reader
from saga_tracker.settings import TrackerSettings

T = TypeVar("T")

# By what of `queries.changes` moves, which pages are concerned.
TOPICS = {
    "stream": "sagas",
    "audit": "audit",
    "arrived": "letters",
    "closed": "letters",
    "selections": "letters",
    "differences": "differences",
}
HEALTH = "health"
SHARE_OF_TIME = 0.05


class Kept(Generic[T]):
    """What was looked up last, for whoever asks: at once, while it is looked up anew behind their back.

    Nobody waits but those who ask first, or after so long that it is no longer true. What takes long is
    looked up more rarely: to watch takes a small share of the database's time, however much is in it.
    """

    def __init__(self, look: Callable[[], Awaitable[T]], fresh_seconds: float, stale_seconds: float) -> None:
        self._look = look
        self._fresh_seconds = fresh_seconds
        self._stale_seconds = stale_seconds
        self._found: T | None = None
        self._found_at = float("-inf")
        self._took_seconds = 0.0
        self._looking: asyncio.Task[T] | None = None

    async def get(self) -> T:
        age_seconds = time.monotonic() - self._found_at
        fresh_seconds = max(self._fresh_seconds, self._took_seconds / SHARE_OF_TIME)
        if self._found is not None and age_seconds < fresh_seconds:
            return self._found
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._renew())
            # An error is of interest to those who wait for it.
            self._looking.add_done_callback(lambda task: task.cancelled() or task.exception())
        if self._found is not None and age_seconds < max(self._stale_seconds, 2 * fresh_seconds):
            return self._found
        return await asyncio.shield(self._looking)

    async def _renew(self) -> T:
        began_at = time.monotonic()
        self._found = await self._look()
        self._found_at = time.monotonic()
        self._took_seconds = self._found_at - began_at
        return self._found


@dataclass(eq=False, slots=True)
class Tab:
    """A page that is open: what it watches, and what changed that it does not show yet."""

    order_id: UUID | None
    orders: set[UUID] = field(default_factory=set)
    topics: set[str] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, orders: set[UUID], topics: set[str]) -> None:
        mine = orders & {self.order_id}
        if mine or topics:
            self.orders |= mine
            self.topics |= topics
            self.changed.set()


class Board:
    """What the pages of one tracker share."""

    def __init__(
        self, settings: TrackerSettings, database: Database, reader: Reader, availability: Availability
    ) -> None:
        self._settings = settings
        self._database = database
        self._reader = reader
        self._availability = availability
        self._tabs: set[Tab] = set()
        self._opened = asyncio.Event()
        fresh, stale = settings.board_fresh_seconds, settings.board_stale_seconds
        self.going_on: Kept[dict[str, list[dict[str, Any]]]] = Kept(self._going_on, fresh, stale)
        self.ended: Kept[dict[str, int]] = Kept(self._ended, settings.board_ended_seconds, 60 * stale)
        self.health: Kept[Mapping[str, ServiceHealth]] = Kept(self._health, fresh, stale)

    async def run(self) -> None:
        """Look for ever what changed, for all tabs at once; while there are none, wait for one."""
        before: Any = None
        while True:
            if not self._tabs:
                before = None
                self._opened.clear()
                await self._opened.wait()
            try:
                seen = await self._look()
                if before is not None:
                    self._tell(before, seen)
                before = seen
            except (*AWAY, *CONTENTION):
                # The pages say so themselves when they are asked for.
                before = None
            await asyncio.sleep(self._settings.board_poll_seconds)

    @contextmanager
    def _open(self, order_id: UUID | None) -> Any:
        tab = Tab(order_id)
        self._tabs.add(tab)
        self._opened.set()
        try:
            yield tab
        finally:
            self._tabs.discard(tab)

    def admit(self) -> None:
        """Raises Problem where so many tabs are open that one more gets no stream."""
        if len(self._tabs) >= self._settings.board_max_tabs:
            headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
            raise Problem(503, "too many pages are open to update one more by itself", headers=headers)

    async def changes(
        self, order_id: UUID | None, is_stopping: Callable[[], bool]
    ) -> AsyncIterator[dict[str, list[str]]]:
        """What changes, for one tab, for as long as it is open."""
        with self._open(order_id) as tab:
            while not is_stopping():
                try:
                    async with asyncio.timeout(self._settings.board_poll_seconds):
                        await tab.changed.wait()
                except TimeoutError:
                    continue
                tab.changed.clear()
                orders, topics = tab.orders, tab.topics
                tab.orders, tab.topics = set(), set()
                yield {"orders": sorted(map(str, orders)), "topics": sorted(topics)}

    async def _look(self) -> tuple[dict[str, Any], dict[UUID, Any], Any]:
        watched = [tab.order_id for tab in self._tabs if tab.order_id is not None]
        marks, sagas = await self._database.read(lambda connection: queries.changes(connection, watched))
        health = [
            (service, self._availability.outage_of(service), self._availability.lock_of(service))
            for service in self._settings.service_patience_seconds
        ]
        return marks, sagas, health

    def _tell(self, before: Any, seen: Any) -> None:
        topics = {topic for mark, topic in TOPICS.items() if before[0][mark] != seen[0][mark]}
        if [(name, outage and outage.why) for name, outage, _ in before[2]] != [
            (name, outage and outage.why) for name, outage, _ in seen[2]
        ]:
            topics.add(HEALTH)
        orders = {order_id for order_id, stands in seen[1].items() if before[1].get(order_id) != stands}
        for tab in self._tabs:
            tab.tell(orders, topics)

    async def _going_on(self) -> dict[str, list[dict[str, Any]]]:
        late = self._settings.board_late_seconds
        return await self._database.read(lambda connection: queries.going_on(connection, late))

    async def _ended(self) -> dict[str, int]:
        return await self._database.read(queries.ended)

    async def _health(self) -> Mapping[str, ServiceHealth]:
        return await looked_up(self._settings, self._reader, self._availability)
