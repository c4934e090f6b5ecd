"""The loop that deletes what is old: a page, a pause, the next page; then nothing for an hour.

Nothing depends on it, so it waits for everybody: for a database that is away, for whoever writes the view,
for a folder that cannot be written to. What could not be exported is not deleted.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import get_args
from uuid import UUID

import psycopg
from prometheus_client import Counter as Total
from sqlalchemy import Boolean, bindparam, delete, func, not_, or_, select, tuple_, update

from events.storage.database import AWAY, CONTENTION, Database
from events.storage.sql import compiled, days, is_among, is_in
from events.telemetry.log import log
from events.telemetry.metrics import REGISTRY
from events.telemetry.redaction import in_words
from saga_tracker.reading.repository import AnotherWrites
from saga_tracker.reconciliation.parties import NoAnswer, Parties
from saga_tracker.retention.old import OLD, Export, Old, Page, Row
from saga_tracker.settings import Kind, TrackerSettings
from saga_tracker.tables import tombstones

# --- Has the services delete what they keep of orders whose saga was deleted, once that is old enough, too
#
# Only the tracker knows that an order ended: payment, for one, does not learn whether what it captured was
# ever confirmed. Each service still keeps what it is itself not done with.


_order_id, _ended_at = tombstones.c.order_id, tombstones.c.ended_at
_after_at = bindparam("after_at", type_=_ended_at.type)
_after_id = bindparam("after_id", type_=_order_id.type)
_WITH_STATES = compiled(
    select(_order_id, _ended_at)
    .where(
        not_(tombstones.c.states_forgotten),
        _ended_at < func.now() - days("days"),
        or_(_after_at.is_(None), tuple_(_ended_at, _order_id) > tuple_(_after_at, _after_id)),
    )
    .order_by(_ended_at, _order_id)
    .limit(bindparam("row_limit"))
)
_NOTE = compiled(update(tombstones).values(states_forgotten=True).where(is_in(_order_id, "order_ids")))
# Those that the services still know go last: the tombstone is all that leads there.
_old = select(_order_id).where(
    tombstones.c.forgotten_at < func.now() - days("days"),
    or_(tombstones.c.states_forgotten, not_(bindparam("wait", type_=Boolean))),
)
_CRUMBLE = compiled(delete(tombstones).where(is_among(_order_id, _old.limit(bindparam("row_limit")))))


async def forget_states(
    database: Database, parties: Parties, days: int, after: Row | None, limit: int
) -> tuple[Page, int]:
    """Have a page of orders forgotten everywhere; says how many were. Raises NoAnswer."""
    given = {"days": days, "row_limit": limit, "after_at": None, "after_id": None}
    if after is not None:
        given |= {"after_at": after["ended_at"], "after_id": after["order_id"]}
    rows = await database.rows(_WITH_STATES, **given)
    page = Page(rows, rows[-1] if rows else None, len(rows) == limit)
    if not rows:
        return page, 0
    order_ids: list[UUID] = [row["order_id"] for row in rows]
    forgotten = await parties.forget(order_ids)
    async with database.transaction() as connection:
        await connection.execute(_NOTE, {"order_ids": sorted(forgotten)})
    return page, len(forgotten)


async def crumble(database: Database, days: int, *, states_too: bool, limit: int) -> tuple[Page, int]:
    """Delete some old tombstones; says how many."""
    async with database.transaction() as connection:
        given = {"days": days, "wait": states_too, "row_limit": limit}
        gone = (await connection.execute(_CRUMBLE, given)).rowcount
    return Page((), None, gone == limit), gone


FORGOTTEN = Total(
    "murmuration_forgotten_total",
    "What was deleted after its retention time, by kind.",
    ["kind"],
    registry=REGISTRY,
)
FAILURES = Total(
    "murmuration_retention_failures_total",
    "Passes that ended early, such as when nothing could be exported, by kind.",
    ["kind"],
    registry=REGISTRY,
)
for _kind in get_args(Kind):
    FORGOTTEN.labels(_kind)
    FAILURES.labels(_kind)

Step = Callable[[Row | None], Awaitable[tuple[Page, int]]]


class Retention:
    """One of every tracker. Of several, one finds what the other has left."""

    def __init__(self, settings: TrackerSettings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._parties = Parties(settings)
        self._export = Export(settings.export_dir) if settings.export_dir else None
        # In this order: what the services keep goes after the saga.
        self._steps: dict[Kind, Step] = {
            **{old.kind: partial(self._step, old) for old in OLD},
            "states": self._forget_states,
            "tombstones": self._crumble,
        }

    async def run(self) -> None:
        """Delete what is old from time to time, for ever."""
        while True:
            forgotten = Counter[str]()
            async with self._parties:
                for kind, step in self._steps.items():
                    if getattr(self._settings.keep, kind):
                        forgotten[kind] = await self._pass(kind, step)
            if forgotten.total():
                log.info("retention", **forgotten)
            await asyncio.sleep(self._settings.retention_interval_seconds)

    async def _pass(self, kind: Kind, step: Step) -> int:
        """Delete all that is old of one kind; says how much. What fails is left to the next pass."""
        forgotten, after = 0, None
        while True:
            began = time.monotonic()
            try:
                page, gone = await step(after)
            except (AnotherWrites, *CONTENTION):
                await asyncio.sleep(self._settings.reconnect_seconds)
                continue
            except AWAY as error:
                await self._database.wait_until_back(error)
                continue
            except (psycopg.Error, OSError, NoAnswer) as error:
                FAILURES.labels(kind).inc()
                log.error("retention_failed", kind=kind, why=in_words(error))
                return forgotten
            FORGOTTEN.labels(kind).inc(gone)
            forgotten += gone
            after = page.last
            if not page.full:
                return forgotten
            pause_share = 1 / self._settings.retention_share_of_time - 1
            await asyncio.sleep((time.monotonic() - began) * pause_share)

    async def _step(self, old: Old, after: Row | None) -> tuple[Page, int]:
        """Export and delete one page. A crash in between exports it a second time, and loses nothing."""
        days: int = getattr(self._settings.keep, old.kind)
        lines: list[str] = []
        async with self._database.transaction() as connection:
            page = await old.page(connection, days, after, self._settings.retention_batch_size)
            if page.rows and self._export is not None:
                lines = await old.lines(connection, page.rows)
        if not page.rows:
            return page, 0
        if self._export is not None:
            await asyncio.to_thread(self._export.write, old.kind, lines, datetime.now(UTC))
        async with self._database.transaction() as connection:
            return page, await old.delete(connection, page.rows)

    async def _forget_states(self, after: Row | None) -> tuple[Page, int]:
        settings = self._settings
        return await forget_states(
            self._database, self._parties, settings.keep.states, after, settings.retention_batch_size
        )

    async def _crumble(self, _after: Row | None) -> tuple[Page, int]:
        keep, limit = self._settings.keep, self._settings.retention_batch_size
        return await crumble(self._database, keep.tombstones, states_too=keep.states > 0, limit=limit)
