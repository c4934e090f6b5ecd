"""One transaction per batch of the input of a service: facts, commands, and outcomes of calls.

    inbox rows, load states (locked, in a fixed order), decide each, save, outbox rows, call rows, commit

Two round trips of a constant number of statements and one fsync, whatever the size of the batch.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

from psycopg import errors
from sqlalchemy import delete

from events.decision import Call, Decision
from events.facts import Fact
from events.messaging.envelope import derive_fact_id
from events.messaging.relay import OutboxRow
from events.outbound.dispatcher import CallRow
from events.runtime.crash import crash_point
from events.runtime.input import Input
from events.service import Service
from events.storage import inbox
from events.storage import retention as tombstones
from events.storage.database import Database
from events.storage.instance import Instance
from events.storage.repository import AppearedMeanwhile, Repository, UnitOfWork, appeared_meanwhile
from events.storage.retention import Forgotten
from events.storage.round_trip import BEGIN, COMMIT, RoundTrip, Rows, prepared
from events.storage.sql import array_of, as_arrays, insert_rows, setting
from events.storage.tables import calls, outbox
from events.telemetry import metrics


class NotNeeded(Exception):
    """What failed before has no effect now: its order has gone on without it. The reason is still known."""


@dataclass(slots=True)
class Committed:
    """What a batch left behind: rows for the relay and the dispatcher, and what it decided of each input.

    `refused`: facts that took no effect, for what is known under their ids is something else, or for they
    failed until their order no longer needed them.
    """

    outbox: list[OutboxRow] = field(default_factory=list)
    calls: list[CallRow] = field(default_factory=list)
    decided: list[tuple[Input, Decision[Any, Any, Any]]] = field(default_factory=list)
    refused: list[tuple[Input, Exception]] = field(default_factory=list)


_OF_CALL = ("call_id", "name", "order_id", "request", "traceparent")
_OF_OUTBOX = tuple(OutboxRow.__slots__)
_CALL_COLUMNS = [calls.c[name] for name in ("owner", *_OF_CALL)]
_OUTBOX_COLUMNS = [outbox.c[name] for name in ("owner", *_OF_OUTBOX)]
_of_call, _of_outbox = attrgetter(*_OF_CALL), attrgetter(*_OF_OUTBOX)

_SETTLE_CALLS = prepared(
    delete(calls)
    .where(calls.c.call_id == array_of("call_ids", calls.c.call_id).any_())
    .returning(calls.c.call_id)
)
_OUTBOX = prepared(insert_rows(outbox, _OUTBOX_COLUMNS))
_CALL = prepared(insert_rows(calls, _CALL_COLUMNS))


class Batch:
    """How one service commits the input of it."""

    def __init__(
        self,
        service: Service,
        repository: Repository,
        database: Database,
        instance: Instance,
        probe_seconds: float,
    ) -> None:
        """`probe_seconds`: how long one waits for a lock that is known to be held."""
        self._wait_briefly = prepared(setting("lock_timeout", f"{max(1, round(probe_seconds * 1000))}ms"))
        self._service = service
        self._repository = repository
        self._database = database
        self._instance = instance
        self._own = frozenset(service.subscribes_to) & frozenset(service.publishes)

    async def commit(self, inputs: Sequence[Input], *, briefly: bool = False) -> Committed:
        """Decide all of it in one transaction, which waits for locks only `briefly` if asked to.

        Raises AppearedMeanwhile when another instance was first with a new order, Locked when somebody holds
        what it needs, and whatever `decide`, the repository or the database raises; unless the connection
        broke during the commit itself, nothing of the batch happened then.
        """
        began = time.perf_counter()
        async with self._database.session() as connection:
            opening = RoundTrip(connection)
            opening.add(BEGIN)
            if briefly:
                opening.add(self._wait_briefly)
            entering = self._enter(opening, inputs)
            buried = tombstones.look_up(opening, {item.order_id for item in inputs})
            unit_of_work = self._repository.load(opening, inputs)
            await opening.run()

            fresh = {causation_id for result in entering for (causation_id,) in result.rows}
            repeated = inbox.repeated(inputs, fresh)
            forgotten = {order_id for (order_id,) in buried.rows}
            committed = self._decide(inputs, unit_of_work, fresh, forgotten)
            if repeated:
                committed.refused += await inbox.contradictions(connection, repeated)

            closing = RoundTrip(connection)
            unit_of_work.save(closing)
            self._write(closing, committed)
            closing.add(COMMIT)
            crash_point("before_commit")
            try:
                await closing.run()
            except errors.UniqueViolation as error:
                if appeared_meanwhile(error):
                    raise AppearedMeanwhile from error
                raise
        crash_point("after_commit")
        metrics.batch_committed(len(inputs) - len(committed.refused), len(committed.decided), began)
        return committed

    def _enter(self, trip: RoundTrip, inputs: Sequence[Input]) -> list[Rows]:
        """Enter the inbox and settle the calls; the answers are the causes that count."""
        facts = [(item.causation_id, item.payload) for item in inputs if item.in_inbox]
        outcomes = [item.causation_id for item in inputs if item.kind == "outcome"]
        results = []
        if facts:
            results.append(inbox.enter(trip, facts))
        if outcomes:
            results.append(trip.add(_SETTLE_CALLS, call_ids=outcomes))
        return results

    def _decide(
        self, inputs: Sequence[Input], unit_of_work: UnitOfWork, fresh: set[UUID], forgotten: set[UUID]
    ) -> Committed:
        committed = Committed()
        now = datetime.now(UTC)
        for item in inputs:
            if item.kind == "outcome" or item.in_inbox:
                if item.causation_id not in fresh:
                    continue
                fresh.remove(item.causation_id)
            if item.order_id in forgotten:
                # A fact of it is a repetition, however long ago it was received first.
                if item.kind == "command":
                    committed.refused.append((item, Forgotten(item.order_id)))
                continue
            state = unit_of_work.state_of(item)
            decision = self._service.decide(state, item.payload)
            if item.failures and not decision.facts and not decision.calls and decision.state == state:
                committed.refused.append((item, NotNeeded()))
            unit_of_work.keep(item, decision.state)
            committed.outbox += [
                self._outbox_row(item, index, fact, now) for index, fact in enumerate(decision.facts)
            ]
            committed.calls += [
                self._call_row(item, index, call) for index, call in enumerate(decision.calls)
            ]
            committed.decided.append((item, decision))
        return committed

    def _outbox_row(self, item: Input, index: int, fact: Fact, stated_at: datetime) -> OutboxRow:
        return OutboxRow(
            fact_id=derive_fact_id(item.causation_id, self._service.name, index),
            wire_name=fact.wire_name,
            order_id=fact.order_id,
            body=fact.model_dump_json(),
            stated_at=stated_at,
            causation_id=item.causation_id,
            traceparent=item.traceparent,
        )

    def _call_row(self, item: Input, index: int, call: Call) -> CallRow:
        call_id = derive_fact_id(item.causation_id, f"{self._service.name}:call", index)
        return CallRow(call_id, call.name, call.order_id, call.model_dump(mode="json"), item.traceparent)

    def _write(self, trip: RoundTrip, committed: Committed) -> None:
        me = self._instance.number
        if committed.calls:
            rows = [(me, *_of_call(row)) for row in committed.calls]
            trip.add(_CALL, **as_arrays(_CALL_COLUMNS, rows))
        if committed.outbox:
            rows = [(me, *_of_outbox(row)) for row in committed.outbox]
            trip.add(_OUTBOX, **as_arrays(_OUTBOX_COLUMNS, rows))
        if own := self._of_its_own(committed):
            inbox.enter(trip, own)

    def _of_its_own(self, committed: Committed) -> list[tuple[UUID, Fact]]:
        """The facts it publishes that it subscribes to as well: this commit is their effect, here and now."""
        if not self._own:
            return []
        facts = (fact for _, decision in committed.decided for fact in decision.facts)
        return [
            (row.fact_id, fact)
            for row, fact in zip(committed.outbox, facts, strict=True)
            if type(fact) in self._own
        ]
