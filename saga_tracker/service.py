"""The tracker, wired: its reader and its HTTP side, and the rebuild of its view."""

import asyncio
from typing import Any

import uvloop

from events.runtime.database import AWAY, Database
from events.runtime.log import configure_logging, log
from events.runtime.process import serve
from events.runtime.settings import read_settings
from saga_tracker import __doc__ as purpose
from saga_tracker import api, pages
from saga_tracker.reader import Progress, Reader
from saga_tracker.rebuild import RebuildFailed, rebuild
from saga_tracker.settings import RebuildSettings, TrackerSettings

NAME = "saga_tracker"


class Tracker:
    """A running tracker."""

    def __init__(self, settings: TrackerSettings) -> None:
        self.database = Database(settings, "tracker")
        self._settings = settings
        self._reader = Reader(settings, self.database)
        self._reading: asyncio.Task[None] | None = None

    @property
    def progress(self) -> Progress:
        """How far the reader has come."""
        return self._reader.progress

    async def start(self) -> None:
        """Start without waiting for broker or database: they may come later."""
        await self.database.open()
        self._reading = asyncio.create_task(self._reader.run(), name="reader")
        log.info("started")

    async def stop(self) -> None:
        """Stop reading; what is not committed yet is read again next time."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading], timeout=self._settings.stop_grace_seconds)
        await self.database.close()
        log.info("stopped")

    async def ready(self) -> dict[str, Any]:
        """What the tracker needs and whether it has it, and about how many messages it is behind."""
        database = True
        try:
            await self.database.rows(b"SELECT 1")
        except AWAY:
            database = False
        return {
            "database": database,
            "broker": self.progress.reading,
            "reader": self._reading is not None and not self._reading.done(),
            "lag_messages": self.progress.lag,
        }


def main() -> None:
    """Run until stopped."""
    settings = read_settings(TrackerSettings)
    serve(NAME, (purpose or "").strip(), settings, Tracker(settings), [api.router, pages.router])


def main_rebuild(*, forget_missing: bool) -> int:
    """Rebuild the view; answers the exit code."""
    settings = read_settings(RebuildSettings)
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
        seconds=round(rebuilt.seconds, 2),
        per_second=rebuilt.per_second,
    )
    return 0
