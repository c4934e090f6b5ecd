"""What meets a lock that somebody else holds: set aside, so that everything else passes, and tried again.

Whose lock it is, PostgreSQL tells only while somebody waits for it. So it is looked up while one of those
that were set aside is tried again; a line in the log, `/readyz` and a metric say it.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from prometheus_client.metrics_core import Metric
from sqlalchemy import column, func, select, table

from events.messaging.consumer import is_there
from events.runtime.input import Entry
from events.runtime.settings import ServiceSettings
from events.storage.database import AWAY, Database, Locked
from events.storage.sql import compiled
from events.telemetry import metrics
from events.telemetry.log import log
from events.telemetry.metrics import gauge

# By then who was tried again waits for the lock, if it is still held.
LOOK_AFTER_SECONDS = 0.003
LOOKS = 3
REVIEW_SECONDS = 0.5
# Who has just met a lock is about to be found in a batch that is halved.
MOMENT_SECONDS = 0.5

# The session at the head of the queue. Of another role's, PostgreSQL says only who it is, unless this role
# may see more (pg_read_all_stats).
_SESSION = ("pid", "usename", "application_name", "state", "xact_start", "datname", "wait_event_type")
_sessions = table("pg_stat_activity", *(column(name) for name in _SESSION))
_waiting, _blocker = _sessions.alias("waiting"), _sessions.alias("blocker")
_found = func.unnest(func.pg_blocking_pids(_waiting.c.pid)).table_valued("pid").render_derived(name="found")
_waits_itself = _blocker.c.wait_event_type == "Lock"
_BLOCKER = compiled(
    select(
        _blocker.c.pid,
        _blocker.c.usename.label("role"),
        _blocker.c.application_name,
        _blocker.c.state,
        _blocker.c.xact_start.label("transaction_since"),
    )
    .select_from(_waiting, _found, _blocker)
    .where(
        _waiting.c.datname == func.current_database(),
        _waiting.c.usename == func.current_user(),
        _waiting.c.wait_event_type == "Lock",
        _blocker.c.pid == _found.c.pid,
    )
    .order_by(_waits_itself.nulls_first(), _blocker.c.xact_start)
    .limit(1)
)


@dataclass(frozen=True, slots=True)
class Blocker:
    """A session that holds a lock, as far as this role may know."""

    pid: int
    role: str | None
    application_name: str | None
    state: str | None
    transaction_since: str | None

    def __str__(self) -> str:
        known = f"pid {self.pid}, role {self.role}, application {self.application_name or 'unnamed'}"
        if self.state is None:
            return known
        return f"{known}, {self.state}, its transaction began at {self.transaction_since}"


class LockedOut:
    """What one worker has set aside because of locks, and whose they are."""

    def __init__(self, settings: ServiceSettings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._held: deque[Entry] = deque()
        self._pause_seconds = settings.lock_pause_seconds
        self._due_at = 0.0
        self._met_at = self._sent_on_at = float("-inf")
        self._began_at: float | None = None
        self._began = asyncio.Event()
        self._waits = asyncio.Event()
        self._blocker: Blocker | None = None

    @property
    def ongoing(self) -> bool:
        """Whether something waits for a lock, here or in the queue of those that come again later."""
        elsewhere_until = self._sent_on_at + self._settings.lock_held_seconds
        return bool(self._held) or monotonic() < max(self._met_at + MOMENT_SECONDS, elsewhere_until)

    @property
    def due(self) -> bool:
        """Whether to try one of those that are set aside."""
        return bool(self._held) and monotonic() >= self._due_at

    @property
    def pause_seconds(self) -> float | None:
        """How long it is until then; None while none is set aside."""
        return max(0.0, self._due_at - monotonic()) if self._held else None

    @property
    def detail(self) -> dict[str, Any]:
        """What `/readyz` says of it; nothing while there is none."""
        if self._began_at is None:
            return {}
        session = str(self._blocker) if self._blocker else "not known yet"
        seconds = round(monotonic() - self._began_at, 1)
        return {"locked": {"set_aside": len(self._held), "seconds": seconds, "session": session}}

    def gauges(self) -> list[Metric]:
        """How much is set aside."""
        what = "Messages and outcomes of calls that are set aside for a lock that another session holds."
        return [gauge("murmuration_lock_set_aside", what, len(self._held))]

    def met(self) -> None:
        """A transaction met a lock."""
        metrics.LOCK_TIMEOUTS.inc()
        self._met_at = monotonic()
        if self._began_at is None:
            self._began_at = monotonic()
            self._began.set()

    def about_to_wait(self) -> None:
        """Somebody may wait for a lock in a moment: that is when to look whose it is."""
        if self.ongoing:
            self._waits.set()

    def set_aside(self, entries: Sequence[Entry]) -> None:
        """Keep these until they are due."""
        now = monotonic()
        if entries and not self._held:
            self._pause_seconds = self._settings.lock_pause_seconds
            self._due_at = now + self._pause_seconds
        self._held += [replace(entry, locked_since=entry.locked_since or now) for entry in entries]

    def take_due(self) -> Entry | None:
        """One of them, to be tried. What came on a channel that is closed comes again by itself."""
        while self.due:
            entry = self._held.popleft()
            if entry.message is None or is_there(entry.message):
                return entry
        return None

    def wait_longer(self) -> None:
        """The one that was tried met the lock again."""
        self._due_at = monotonic() + self._pause_seconds
        self._pause_seconds = min(2 * self._pause_seconds, self._settings.lock_pause_cap_seconds)

    def release(self) -> list[Entry]:
        """All of them, for one got through."""
        released = list(self._held)
        self._held.clear()
        return released

    def take_overdue(self) -> list[Entry]:
        """Those that are to wait elsewhere: too long here, or more messages than leave room for others."""
        limit, room = monotonic() - self._settings.lock_held_seconds, self._settings.prefetch // 2
        kept: deque[Entry] = deque()
        overdue = []
        for entry in self._held:
            # Outcomes are bounded by how many calls there are at once.
            room -= entry.message is not None
            if entry.locked_since < limit or (room < 0 and entry.message is not None):
                overdue.append(entry)
            else:
                kept.append(entry)
        self._held = kept
        if overdue:
            self._sent_on_at = monotonic()
        return overdue

    async def run(self) -> None:
        """Find out whose lock it is, whenever there is one, for ever."""
        while True:
            await self._began.wait()
            self._began.clear()
            await self._watch()
            log.info("lock_gone", after_seconds=round(monotonic() - (self._began_at or monotonic()), 1))
            self._began_at = self._blocker = None

    async def _watch(self) -> None:
        while self.ongoing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REVIEW_SECONDS):
                    await self._waits.wait()
            if self._waits.is_set():
                self._waits.clear()
                await self._look()

    async def _look(self) -> None:
        for _ in range(LOOKS):
            await asyncio.sleep(LOOK_AFTER_SECONDS)
            try:
                rows = await self._database.rows(_BLOCKER)
            except (Locked, *AWAY):
                return  # whoever needs the database says so
            for row in rows:
                since = row["transaction_since"]
                self._note(Blocker(**{**row, "transaction_since": since.isoformat() if since else None}))
                return

    def _note(self, blocker: Blocker) -> None:
        if self._blocker is None or self._blocker.pid != blocker.pid:
            self._blocker = blocker
            log.warning(
                "waits_for_lock",
                set_aside=len(self._held),
                pid=blocker.pid,
                role=blocker.role,
                application_name=blocker.application_name,
                state=blocker.state,
                transaction_since=blocker.transaction_since,
            )
        self._blocker = blocker
