"""One transaction per batch of what a service is told: facts, commands, and outcomes of calls.

    inbox rows, load states (locked, in a fixed order), decide each, save, outbox rows, call rows, commit

A constant number of statements in two round trips and one fsync, whatever the size of the batch.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from psycopg import errors
from psycopg.types.json import Jsonb
from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert

from events.decision import Call, Decision
from events.envelope import derive_fact_id
from events.facts import Fact
from events.runtime import metrics
from events.runtime.calls import CallRow
from events.runtime.crash import crash_point
from events.runtime.database import Connection, Database
from events.runtime.instance import Instance
from events.runtime.relay import OutboxRow
from events.runtime.sql import array_of, compiled, insert_rows, rows_of
from events.runtime.states import AppearedMeanwhile, Store, Workspace, appeared_meanwhile
from events.runtime.tables import calls, inbox, outbox
from events.runtime.told import Told
from events.service import Service


@dataclass(slots=True)
class Committed:
    """What a batch left behind: rows for the relay and the caller, and what it decided of each thing told."""

    outbox: list[OutboxRow] = field(default_factory=list)
    calls: list[CallRow] = field(default_factory=list)
    decided: list[tuple[Told, Decision[Any, Any, Any]]] = field(default_factory=list)


_OUTBOX_COLUMNS = list(outbox.c)
_CALL_COLUMNS = [calls.c[name] for name in ("call_id", "owner", "name", "order_id", "request", "traceparent")]

_given = rows_of([inbox.c.fact_id])
_ENTER_INBOX = compiled(
    postgresql_insert(inbox)
    .from_select(["fact_id"], select(*_given.c).order_by(*_given.c))
    .on_conflict_do_nothing()
    .returning(inbox.c.fact_id)
)
_SETTLE_CALLS = compiled(
    delete(calls)
    .where(calls.c.call_id == array_of("call_ids", calls.c.call_id).any_())
    .returning(calls.c.call_id)
)
_STATE = compiled(insert_rows(outbox, _OUTBOX_COLUMNS))
_CALL = compiled(insert_rows(calls, _CALL_COLUMNS))


class Batch:
    """How one service commits what it is told."""

    def __init__(self, service: Service, store: Store, database: Database, instance: Instance) -> None:
        self._service = service
        self._store = store
        self._database = database
        self._instance = instance

    async def commit(self, told: Sequence[Told]) -> Committed:
        """Decide all of it in one transaction.

        Raises AppearedMeanwhile when another instance was first with a new order, and whatever `decide`,
        the store or the database raises; unless the connection broke during the commit itself, nothing of
        the batch happened then.
        """
        began = time.perf_counter()
        async with self._database.transaction() as connection:
            async with connection.pipeline():
                workspace, fresh = await self._open(connection, told)
            committed = self._decide(told, workspace, fresh)
            try:
                async with connection.pipeline():
                    await workspace.save(connection)
                    await self._write(connection, committed)
                    crash_point("before_commit")
                    await connection.commit()
            except errors.UniqueViolation as error:  # within a pipeline it is not known where it comes up
                if appeared_meanwhile(error):
                    raise AppearedMeanwhile from error
                raise
        crash_point("after_commit")
        metrics.batch_committed(len(told), len(committed.decided), began)
        return committed

    async def _open(self, connection: Connection, told: Sequence[Told]) -> tuple[Workspace, set[UUID]]:
        """Enter the inbox, settle the calls and load the states; answers which causes count."""
        facts = [item.cause for item in told if item.kind == "fact"]
        outcomes = [item.cause for item in told if item.kind == "outcome"]
        cursors = []
        if facts:
            cursors.append(await connection.execute(_ENTER_INBOX, {"fact_id": facts}))
        if outcomes:
            cursors.append(await connection.execute(_SETTLE_CALLS, {"call_ids": outcomes}))
        workspace = await self._store.load(connection, told)
        fresh = {value for cursor in cursors for row in await cursor.fetchall() for value in row.values()}
        return workspace, fresh

    def _decide(self, told: Sequence[Told], workspace: Workspace, fresh: set[UUID]) -> Committed:
        committed = Committed()
        now = datetime.now(UTC)
        for item in told:
            if item.kind != "command":
                if item.cause not in fresh:
                    continue
                fresh.remove(item.cause)
            decision = self._service.decide(workspace.state_of(item), item.said)
            workspace.keep(item, decision.state)
            committed.outbox += [
                self._outbox_row(item, index, fact, now) for index, fact in enumerate(decision.facts)
            ]
            committed.calls += [
                self._call_row(item, index, call) for index, call in enumerate(decision.calls)
            ]
            committed.decided.append((item, decision))
        return committed

    def _outbox_row(self, item: Told, index: int, fact: Fact, stated_at: datetime) -> OutboxRow:
        return OutboxRow(
            fact_id=derive_fact_id(item.cause, self._service.name, index),
            wire_name=fact.wire_name,
            order_id=fact.order_id,
            body=fact.model_dump_json(),
            stated_at=stated_at,
            causation_id=item.cause,
            traceparent=item.traceparent,
        )

    def _call_row(self, item: Told, index: int, call: Call) -> CallRow:
        call_id = derive_fact_id(item.cause, f"{self._service.name}:call", index)
        return CallRow(call_id, call.name, call.order_id, call.model_dump(mode="json"), item.traceparent)

    async def _write(self, connection: Connection, committed: Committed) -> None:
        if committed.calls:
            await connection.execute(_CALL, self._call_arrays(committed.calls))
        if committed.outbox:
            await connection.execute(_STATE, self._outbox_arrays(committed.outbox))

    def _outbox_arrays(self, rows: list[OutboxRow]) -> dict[str, list[Any]]:
        arrays = {name: [getattr(row, name) for row in rows] for name in OutboxRow.__slots__}
        return arrays | {"owner": [self._instance.number] * len(rows)}

    def _call_arrays(self, rows: list[CallRow]) -> dict[str, list[Any]]:
        names = ("call_id", "name", "order_id", "traceparent")
        arrays: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in names}
        arrays["request"] = [Jsonb(row.request) for row in rows]
        return arrays | {"owner": [self._instance.number] * len(rows)}
