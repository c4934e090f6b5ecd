"""The tracker, wired: its reader and its HTTP side, and the rebuild of its view."""

from typing import Any

import uvloop
from prometheus_client.metrics_core import Metric

from events.messaging.connection import blocked_detail
from events.runtime.loops import Loops
from events.runtime.process import Part, collect_garbage_rarely, serve
from events.runtime.settings import read_settings
from events.storage.database import AWAY, Database
from events.storage.sql import ALIVE
from events.telemetry.log import configure_logging, log
from events.telemetry.metrics import Values, broker_blocked, connections, gauge
from saga_tracker import __doc__ as purpose
from saga_tracker import sign_in
from saga_tracker.availability import Availability
from saga_tracker.board import acts, letters, overviews, pages, render
from saga_tracker.board.live import Board
from saga_tracker.causes.asking import Asking
from saga_tracker.dead_letters import api as dead_letters_api
from saga_tracker.dead_letters.ingest import Ingest
from saga_tracker.dead_letters.selections import SelectionRunner
from saga_tracker.http import api, manual_api
from saga_tracker.overview import Overview
from saga_tracker.reading.reader import Progress, Reader
from saga_tracker.reading.rebuild import RebuildFailed, rebuild
from saga_tracker.reconciliation import api as reconciliation_api
from saga_tracker.reconciliation.reconciler import Reconciler
from saga_tracker.retention.retention import Retention
from saga_tracker.scheduler.redrive import publisher_of
from saga_tracker.scheduler.scheduler import DeadlineScheduler
from saga_tracker.scheduler.watcher import Watcher
from saga_tracker.settings import RebuildSettings, TrackerSettings
from saga_tracker.steps import SERVICES

NAME = "saga_tracker"
# psycopg prepares a statement that a connection has executed so often.
PREPARE_THRESHOLD = 5
LAG = "lag"
SWEEP, FORGET = "publisher_sweep", "publisher_forget"
WATCHER, RETENTION, CAUSES = "watcher", "retention", "causes"
BOARD, SELECTIONS = "board", "selections"
# Loops that are not shown by themselves: that the lag is measured is part of reading, and so on; and nobody
# waits for what is old to be deleted.
NOT_NOTIFIED_OF = (LAG, SWEEP, FORGET, WATCHER, RETENTION, CAUSES, BOARD, SELECTIONS)
PAGES = [
    pages.router,
    letters.router,
    overviews.router,
    acts.forms,
    sign_in.router,
    render.static_router,
    render.missing_router,
]
ROUTERS = [api.router, manual_api.router, dead_letters_api.router, reconciliation_api.router, *PAGES]


class Tracker:
    """A running tracker."""

    def __init__(self, settings: TrackerSettings) -> None:
        self.database = Database(settings, "tracker", prepare_threshold=PREPARE_THRESHOLD)
        self.settings = settings
        self.publisher = publisher_of(settings, self.database)
        self._ingest = Ingest(settings, self.database)
        self.availability = Availability(
            settings.service_patience_seconds,
            settled_seconds=settings.service_settled_seconds,
            unready_seconds=settings.service_unready_seconds,
        )
        self.reader = Reader(settings, self.database, self.availability)
        self._watcher = Watcher(settings, self.database, self.reader, self.availability)
        self.reconciler = Reconciler(settings, self.database, self.reader.has_caught_up)
        self.scheduler = DeadlineScheduler(
            settings, self.database, self.reader, self.publisher, self.availability
        )
        self.asking = Asking(settings, self.database, self.availability)
        self._overview = Overview(settings, self.database, self.reader.progress, self.scheduler.name)
        self._retention = Retention(settings, self.database)
        self._selections = SelectionRunner(settings, self.database, self.publisher)
        self.board = Board(settings, self.database, self.reader, self.availability)
        self.loops = Loops()

    @property
    def progress(self) -> Progress:
        """How far the reader has come."""
        return self.reader.progress

    async def start(self) -> None:
        """Start without waiting for broker or database: they may come later."""
        await self.database.open()
        await self.loops.open()
        self.loops.start(
            {
                "reader": self.reader.run,
                LAG: self.reader.measure_lag,
                "publisher": self.publisher.run,
                SWEEP: self.publisher.sweep,
                FORGET: self.publisher.forget,
                "deadline_scheduler": self.scheduler.run,
                WATCHER: self._watcher.run,
                "dead_letters": self._ingest.run,
                "cases": self._ingest.close_cases,
                "reconciler": self.reconciler.run,
                RETENTION: self._retention.run,
                BOARD: self.board.run,
                SELECTIONS: self._selections.run,
                CAUSES: self.asking.run,
            }
        )
        log.info("started")

    async def stop(self) -> None:
        """Stop reading; what is not committed yet is read again next time."""
        await self.loops.close(self.settings.stop_grace_seconds)
        await self.scheduler.release()
        await self.database.close()
        log.info("stopped")

    async def ready(self) -> dict[str, Any]:
        """What the tracker needs and whether it has it; how far it is behind, and what the broker refuses."""
        database = True
        try:
            await self.database.rows(ALIVE)
        except AWAY:
            database = False
        refused = {"refused_messages": self.publisher.set_aside} if self.publisher.set_aside else {}
        never_read = {"never_read": self.progress.never_read} if self.progress.never_read else {}
        return {
            **refused,
            **never_read,
            **blocked_detail(self.publisher.blocked),
            "database": database,
            "broker": self._consuming() and not self.publisher.blocked,
            **{name: runs for name, runs in self.loops.running.items() if name not in NOT_NOTIFIED_OF},
            "lag_messages": self.progress.lag,
        }

    async def gauges(self) -> list[Metric]:
        """What the view tells of all sagas, and whether database and broker are there."""
        found = await self._overview.in_the_view()
        connected = connections(database=found is not None, broker=self._consuming())
        blocked = broker_blocked(bool(self.publisher.blocked))
        down: Values = {(name,): float(self.availability.outage_of(name) is not None) for name in SERVICES}
        services = gauge(
            "murmuration_service_down",
            "1 while a service cannot work, as this tracker sees it; for a time none of its orders is late.",
            down,
            ["service"],
        )
        return [connected, blocked, services, *self._overview.lag(), *(found or ())]

    def _consuming(self) -> bool:
        return self.progress.reading and self.publisher.connected and self._ingest.consuming


def main() -> None:
    """Run until stopped."""
    serve(part())


def part() -> Part:
    """The tracker as the environment has it. Exits with code 2 where that is wrong."""
    settings = read_settings(TrackerSettings)
    return Part(NAME, (purpose or "").strip(), settings, Tracker(settings), ROUTERS)


def main_rebuild(*, forget_missing: bool) -> int:
    """Rebuild the view; answers the exit code."""
    settings = read_settings(RebuildSettings)
    collect_garbage_rarely()
    configure_logging(f"{NAME} rebuild", settings.log_format, settings.log_level)
    try:
        rebuilt = uvloop.run(rebuild(settings, forget_missing=forget_missing))
    except RebuildFailed as error:
        log.error("rebuild_failed", why=str(error))
        return 1
    log.info(
        "rebuilt",
        messages=rebuilt.messages,
        unreadable=rebuilt.unreadable,
        facts_kept=rebuilt.kept,
        seconds=round(rebuilt.seconds, 2),
        per_second=rebuilt.per_second,
    )
    return 0
