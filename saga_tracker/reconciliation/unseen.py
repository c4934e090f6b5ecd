"""Finds orders that a service knows and the tracker never saw: no fact of them was read, or published.

Walks through what every service keeps, a page each a round, by order id, and begins anew at the end. What is
not in the view is compared like any other order, so it is listed once it has lasted.
"""

import asyncio
from uuid import UUID

from sqlalchemy import bindparam, exists, func, literal, select

from events.storage.database import Connection, Database
from events.storage.sql import compiled, rows_of
from saga_tracker.reconciliation.comparisons import COMPARE_LATER
from saga_tracker.reconciliation.parties import NoAnswer, Parties
from saga_tracker.steps import SERVICES
from saga_tracker.tables import comparisons, differences, sagas, tombstones

_known = rows_of([sagas.c.order_id])
_UNSEEN = compiled(
    select(_known.c.order_id)
    .where(
        *(
            ~exists().where(table.c.order_id == _known.c.order_id)
            for table in (sagas, tombstones, comparisons)
        )
    )
    .order_by(_known.c.order_id)
)
_some = select(literal(1)).where(differences.c.about == "saga").limit(bindparam("most")).subquery()
_LISTED = compiled(select(func.count().label("listed")).select_from(_some))


class Unseen:
    """How far this tracker has come with each service. With so many found it waits until some are seen to."""

    def __init__(self, database: Database, parties: Parties, page_size: int, most: int) -> None:
        self._database = database
        self._parties = parties
        self._page_size = page_size
        self._most = most
        self._after: dict[str, UUID | None] = {}

    async def look(self) -> int:
        """A page of each service that answers; says how many orders are to be compared now."""
        if not self._page_size:
            return 0
        async with self._database.transaction() as connection:
            row = await (await connection.execute(_LISTED, {"most": self._most})).fetchone()
        if row is None or row["listed"] >= self._most:
            return 0
        services = [service for service in SERVICES if service in self._parties.asked]
        return sum(await asyncio.gather(*map(self._page_of, services)))

    async def _page_of(self, service: str) -> int:
        try:
            known = await self._parties.orders_of(service, self._after.get(service), self._page_size)
        except NoAnswer:
            return 0
        # A short page is the last one.
        self._after[service] = known[-1] if len(known) == self._page_size else None
        async with self._database.transaction() as connection:
            return await _compare(connection, known)


async def _compare(connection: Connection, known: list[UUID]) -> int:
    rows = await (await connection.execute(_UNSEEN, {"order_id": known})).fetchall()
    unseen = [row["order_id"] for row in rows]
    if unseen:
        await connection.execute(COMPARE_LATER, {"order_ids": unseen})
    return len(unseen)
