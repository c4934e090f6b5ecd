"""Asks the services what the tracker missed: of sagas under way in a gap of the stream, and whole orders.

What a service's state proves, such as that a payment is captured, is entered as a fact of the saga, marked as
reconstructed: so the saga goes on from there. A state may be ahead of a fact that is only on its way: what
counts was proved twice, some time apart, and not read meanwhile.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid5

from psycopg.types.json import Jsonb
from sqlalchemy import bindparam, delete, exists, func, literal, not_, select, true, update
from sqlalchemy.dialects.postgresql import JSONB, insert

from events.facts import published_facts
from events.service import name_of
from events.storage.database import Connection, Database
from events.storage.sql import as_arrays, compiled, is_among, is_in, rows_of, seconds
from events.telemetry.log import log
from saga_tracker.consistency.snapshot import PROVIDER, Proof, ServiceState, proofs
from saga_tracker.projection import project
from saga_tracker.reading import repository
from saga_tracker.reading.recorder import derive_anew
from saga_tracker.reconciliation.comparisons import COMPARE_LATER
from saga_tracker.reconciliation.parties import NoAnswer, Parties
from saga_tracker.settings import TrackerSettings
from saga_tracker.steps import SERVICES
from saga_tracker.tables import (
    comparisons,
    differences,
    look_ups,
    saga_facts,
    sagas,
    stream_gaps,
    stream_position,
    tombstones,
)

REASON = "reconstructed from what the services say"
# Beyond the time everybody asked may take.
HOLD_MARGIN_SECONDS = 10.0

_due_first = (
    select(look_ups.c.order_id)
    .where(look_ups.c.due_at <= func.now())
    .order_by(look_ups.c.due_at)
    .limit(bindparam("row_limit"))
    .with_for_update(skip_locked=True)
)
_TAKE = compiled(
    update(look_ups)
    .values(due_at=func.now() + seconds("hold_seconds"))
    .where(is_among(look_ups.c.order_id, _due_first))
    .returning(look_ups.c.order_id, look_ups.c.proved)
)
_a_day_ago = func.now() - timedelta(days=1)
# Those that began in a gap: what is read of them begins in the middle.
_BEGAN_UNREAD = compiled(
    insert(look_ups)
    .from_select(
        ["order_id", "waited_for_until"],
        select(sagas.c.order_id, func.now() + seconds("patience"))
        .where(
            sagas.c.ended_at.is_(None),
            exists().where(stream_gaps.c.before_at > _a_day_ago),
            not_(
                exists().where(
                    saga_facts.c.order_id == sagas.c.order_id,
                    func.starts_with(saga_facts.c.wire_name, "order.created."),
                )
            ),
        )
        .order_by(sagas.c.order_id),
    )
    .on_conflict_do_nothing()
)
_AGAIN = compiled(
    update(look_ups)
    .values(proved=bindparam("proved_now", type_=JSONB), due_at=func.now() + seconds("seconds"))
    .where(look_ups.c.order_id == bindparam("id"))
)
_DONE = compiled(delete(look_ups).where(is_in(look_ups.c.order_id, "order_ids")))
_PROVED = [saga_facts.c[name] for name in ("order_id", "fact_id", "wire_name", "stated_by", "body")]
_given = rows_of(_PROVED)
# Never read from the stream, so without an offset.
_ENTER = compiled(
    insert(saga_facts)
    .from_select(
        [*_given.c.keys(), "stated_at", "dated", "stream_offset"],
        select(*_given.c, func.now(), true(), literal(-1)),
    )
    .on_conflict_do_nothing()
)
# What readers remember of sagas between batches does not hold any more: they begin again where they are.
_READERS_FORGET = compiled(update(stream_position).values(reading=stream_position.c.reading + 1))
_WIRE_NAMES = {name_of(wire_name): wire_name for wire_name in sorted(published_facts())}


class LookUps:
    """A part of the reconciler's round."""

    def __init__(self, settings: TrackerSettings, database: Database, parties: Parties) -> None:
        self._settings = settings
        self._rules = settings.deadline_rules
        self._database = database
        self._parties = parties

    async def some(self) -> int:
        """Look up some sagas; says how many. Raises AnotherWrites, or one of AWAY."""
        settings = self._settings
        if not self._parties.asked - {PROVIDER}:
            return 0
        given = {
            "hold_seconds": settings.reconciliation_timeout_seconds + HOLD_MARGIN_SECONDS,
            "row_limit": settings.reconciliation_batch_size,
        }
        async with self._database.transaction() as connection:
            await connection.execute(_BEGAN_UNREAD, {"patience": settings.look_up_patience_seconds})
            rows = await (await connection.execute(_TAKE, given)).fetchall()
        if rows:
            before = {row["order_id"]: row["proved"] for row in rows}
            answers = await self._parties.states_of(sorted(before))
            complete = self._parties.asked - {PROVIDER} <= answers.keys()
            async with self._database.transaction() as connection:
                await repository.lock(connection)
                await self._learn(connection, before, answers, complete=complete)
        return len(rows)

    async def _learn(
        self,
        connection: Connection,
        before: Mapping[UUID, Any],
        answers: Mapping[Any, Mapping[UUID, ServiceState]],
        *,
        complete: bool,
    ) -> None:
        known = await repository.facts_of(connection, sorted(before))
        done: list[UUID] = []
        entered: list[UUID] = []
        for order_id, proved_before in before.items():
            if order_id not in known or project(known[order_id]).ended_at is not None:
                done.append(order_id)
                continue
            says = {service: found[order_id] for service, found in answers.items() if order_id in found}
            missed = _missed(proofs(says), {fact.name for fact in known[order_id]})
            certain = [proof for proof in missed if list(proof) in (proved_before or [])]
            if certain:
                await _enter(connection, order_id, certain)
                entered.append(order_id)
            if complete and proved_before is not None and len(certain) == len(missed):
                done.append(order_id)
            else:
                await self._look_again(connection, order_id, missed, complete=complete)
        await connection.execute(_DONE, {"order_ids": done})
        if entered:
            await derive_anew(connection, sorted(entered), self._rules)
            await connection.execute(_READERS_FORGET)
            log.warning("sagas_reconstructed", sagas=len(entered))

    async def _look_again(
        self, connection: Connection, order_id: UUID, missed: Sequence[Proof], *, complete: bool
    ) -> None:
        settings = self._settings
        pause_seconds = (
            settings.reconciliation_settle_seconds if complete else settings.reconciliation_recheck_seconds
        )
        given = {"id": order_id, "seconds": pause_seconds, "proved_now": Jsonb(missed)}
        await connection.execute(_AGAIN, given)


def _missed(proved: Sequence[Proof], known: Collection[str]) -> list[Proof]:
    return [proof for proof in proved if proof.fact not in known]


async def _enter(connection: Connection, order_id: UUID, proved: Sequence[Proof]) -> None:
    rows = []
    for proof in proved:
        body = {"order_id": str(order_id), "reason": REASON}
        if proof.ending is not None:
            body["ending"] = proof.ending
        fact_id = uuid5(order_id, f"reconstructed:{proof.fact}")
        rows.append((order_id, fact_id, _WIRE_NAMES[proof.fact], proof.fact.partition(".")[0], body))
    await connection.execute(_ENTER, as_arrays(_PROVED, rows))


# Finds orders that a service knows and the tracker never saw: no fact of them was read, or published.
#
# Walks through what every service keeps, a page each a round, by order id, and begins anew at the end. What
# is not in the view is compared like any other order, so it is listed once it has lasted.

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
