"""Forgets, now and then, which facts were heard long ago. Otherwise the inbox would grow for ever.

The same for tombstones, which are small: for as long as anybody may replay an order, they keep it from
beginning again, so they go only if a number of days is set.

A fact whose row is gone is heard as if it were new. Until then it may come again by any way there is; after
that only the state of its order protects, or its tombstone (docs/choreography.md: what is repeated).

The inbox has no index by time, and no partitions: what a fact is known by is its id alone, whoever stated it
and whenever it says it did. So the table is walked, a few pages in a transaction, with long pauses. Where
nothing is old that costs about as much as reading it, and those who hear facts nothing at all.
"""

import asyncio
import time

import psycopg

from events.runtime.settings import ServiceSettings
from events.storage.database import Database, in_words
from events.storage.sql import compiled, setting
from events.telemetry.log import log

# Pages of 8 KiB, of some 80 rows each.
PAGES_AT_ONCE = 64
# Of the time a pass takes, so much is work. The rest is for those who hear facts.
SHARE_OF_TIME = 0.05

_PAGES = b"SELECT pg_relation_size(%(table)s::regclass) / current_setting('block_size')::int AS pages"
# Losing this in a crash of the server only means that the rows are forgotten later.
_NO_FSYNC = compiled(setting("synchronous_commit", "off"))
_FORGET = b"""
    DELETE FROM inbox
    WHERE ctid >= format('(%%s,0)', %(first)s::bigint)::tid AND ctid < format('(%%s,0)', %(end)s::bigint)::tid
        AND heard_at < now() - make_interval(days => %(days)s)
"""
_FORGET_TOMBSTONES = _FORGET.replace(b"inbox", b"tombstones").replace(b"heard_at", b"forgotten_at")


class Retention:
    """One of every instance. Several forget the same rows, and one finds what the other has left."""

    def __init__(self, settings: ServiceSettings, database: Database) -> None:
        self._settings = settings
        self._database = database

    async def run(self) -> None:
        """Walk through both tables from time to time, for ever; for nothing if they are kept for ever."""
        while True:
            try:
                await self.walk()
            except psycopg.Error as error:  # such as a time limit of the server's: nothing depends on it
                log.error("inbox_not_walked", why=in_words(error))
            await asyncio.sleep(self._settings.inbox_walk_seconds)

    async def walk(self) -> None:
        """Forget what is old, from the first page to the last."""
        if days := self._settings.inbox_retention_days:
            await self._walk("inbox", _FORGET, days)
        if days := self._settings.tombstone_retention_days:
            await self._walk("tombstones", _FORGET_TOMBSTONES, days)

    async def _walk(self, table: str, statement: bytes, days: int) -> None:
        pages: int = (await self._database.rows_when_back(_PAGES, table=table))[0]["pages"]
        forgotten = 0
        for first in range(0, pages, PAGES_AT_ONCE):
            began = time.monotonic()
            forgotten += await self._forget(
                statement, {"first": first, "end": first + PAGES_AT_ONCE, "days": days}
            )
            await asyncio.sleep((time.monotonic() - began) * (1 / SHARE_OF_TIME - 1))
        if forgotten:
            log.info(f"{table}_forgot", rows=forgotten)

    async def _forget(self, statement: bytes, given: dict[str, int]) -> int:
        async def forget() -> int:
            async with self._database.transaction() as connection:
                await connection.execute(_NO_FSYNC)
                return (await connection.execute(statement, given)).rowcount

        return await self._database.until_done(forget)
