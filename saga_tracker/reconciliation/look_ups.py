"""Asks the services what the tracker missed of sagas that were under way in a gap of the stream.

What a service's state proves, such as that a payment is captured, is entered as a fact of the saga, marked as
reconstructed: so the saga goes on from there. A state may be ahead of a fact that is only on its way: what
counts was proved twice, some time apart, and not read meanwhile.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID, uuid5

from psycopg.types.json import Jsonb

from events.facts import published_facts
from events.service import name_of
from events.storage.database import Connection, Database
from events.telemetry.log import log
from saga_tracker.consistency.snapshot import PROVIDER, ServiceState
from saga_tracker.consistency.statuses import Proof, proofs
from saga_tracker.projection import project
from saga_tracker.reading import repository
from saga_tracker.reading.recorder import derive_anew
from saga_tracker.reconciliation.parties import Parties
from saga_tracker.settings import TrackerSettings

REASON = "reconstructed from what the services say"
# Beyond the time everybody asked may take.
HOLD_MARGIN_SECONDS = 10.0

_TAKE = b"""
    UPDATE look_ups SET due_at = now() + make_interval(secs => %(hold_seconds)s)
    WHERE order_id = ANY(ARRAY(
        SELECT order_id FROM look_ups WHERE due_at <= now() ORDER BY due_at LIMIT %(row_limit)s
        FOR UPDATE SKIP LOCKED))
    RETURNING order_id, proved
"""
# Those that began in a gap: what is read of them begins in the middle.
_BEGAN_UNREAD = b"""
    INSERT INTO look_ups (order_id, waited_for_until)
    SELECT order_id, now() + make_interval(secs => %(patience)s) FROM sagas
    WHERE ended_at IS NULL
        AND EXISTS (SELECT FROM stream_gaps WHERE before_at > now() - make_interval(days => 1))
        AND NOT EXISTS (SELECT FROM saga_facts AS fact WHERE fact.order_id = sagas.order_id
            AND starts_with(fact.wire_name, 'order.created.'))
    ORDER BY order_id ON CONFLICT DO NOTHING
"""
_AGAIN = b"""
    UPDATE look_ups SET proved = %(proved)s, due_at = now() + make_interval(secs => %(seconds)s)
    WHERE order_id = %(order_id)s
"""
_DONE = b"DELETE FROM look_ups WHERE order_id = ANY(%(order_ids)s::uuid[])"
# Never read from the stream, so without an offset.
_ENTER = b"""
    INSERT INTO saga_facts (order_id, fact_id, wire_name, stated_by, stated_at, dated, stream_offset, body)
    VALUES (%(order_id)s, %(fact_id)s, %(wire_name)s, %(stated_by)s, now(), true, -1, %(body)s)
    ON CONFLICT DO NOTHING
"""
# What readers remember of sagas between batches does not hold any more: they begin again where they are.
_READERS_FORGET = b"UPDATE stream_position SET reading = reading + 1"
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
        seconds = (
            settings.reconciliation_settle_seconds if complete else settings.reconciliation_recheck_seconds
        )
        given = {"order_id": order_id, "seconds": seconds, "proved": Jsonb(missed)}
        await connection.execute(_AGAIN, given)


def _missed(proved: Sequence[Proof], known: Collection[str]) -> list[Proof]:
    return [proof for proof in proved if proof.fact not in known]


async def _enter(connection: Connection, order_id: UUID, proved: Sequence[Proof]) -> None:
    for proof in proved:
        body = {"order_id": str(order_id), "reason": REASON}
        if proof.ending is not None:
            body["ending"] = proof.ending
        given = {
            "order_id": order_id,
            "fact_id": uuid5(order_id, f"reconstructed:{proof.fact}"),
            "wire_name": _WIRE_NAMES[proof.fact],
            "stated_by": proof.fact.partition(".")[0],
            "body": Jsonb(body),
        }
        await connection.execute(_ENTER, given)
