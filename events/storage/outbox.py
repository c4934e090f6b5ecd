"""A table of committed messages on their way to the broker: a service's outbox, or the tracker's.

What the broker refused is set aside in the table itself, by `due_at`, so that it outlasts a restart and its
number has no bound in memory. Of all that is set aside under one routing key a single message is tried again
at a time: each attempt puts a copy into every other queue that is bound to the key. The pause grows with each
attempt, whichever message it was, and that is another one each time, for the one that nobody will ever take
must not keep the others. Once one is confirmed, the others follow.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from sqlalchemy import Column, ColumnElement, Table

from events.storage.database import Database
from events.storage.outbox_statements import OutboxStatements
from events.storage.sql import as_arrays, compiled, setting

MAX_ERROR_CHARACTERS = 500
# Losing a commit in a crash of the server only means that something is published, or set aside, once more.
_NO_FSYNC = compiled(setting("synchronous_commit", "off"))


class OutgoingMessage(Protocol):
    """A row of an outbox. Its `key` is what the columns that identify it hold."""

    @property
    def key(self) -> tuple[Any, ...]: ...
    @property
    def exchange(self) -> str: ...
    @property
    def routing_key(self) -> str: ...
    @property
    def message_id(self) -> UUID: ...
    @property
    def wire_name(self) -> str: ...
    @property
    def order_id(self) -> UUID: ...
    @property
    def stated_by(self) -> str: ...
    @property
    def stated_at(self) -> datetime: ...
    @property
    def causation_id(self) -> UUID | None: ...
    @property
    def traceparent(self) -> str | None: ...
    @property
    def body(self) -> str: ...


RowT = TypeVar("RowT", bound=OutgoingMessage)


@dataclass(frozen=True, slots=True)
class Aside:
    """How many messages are set aside, and whether the pause of some is over."""

    count: int
    due: bool


class OutboxTable(Generic[RowT]):
    """How the publisher reads and writes an outbox. Everything raises what the database raises.

    `kind` is a dataclass named after the columns. `scope` says which rows are this process's, by parameters
    that `given` supplies.
    """

    def __init__(
        self,
        database: Database,
        table: Table,
        kind: type[RowT],
        *,
        key: Sequence[Column[Any]],
        routing_key: Column[Any],
        age: Column[Any],
        scope: ColumnElement[bool] | None = None,
        given: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self.database = database
        self._kind = kind
        self._key = list(key)
        self._given = given
        mine: list[ColumnElement[bool]] = [] if scope is None else [scope]
        columns = [table.c[field.name] for field in fields(kind)]  # type: ignore[arg-type]
        self._statements = OutboxStatements(table, columns, self._key, routing_key, age, mine)
        self._routing_key = routing_key

    async def read(self, limit: int) -> list[RowT]:
        """The oldest that are not set aside."""
        rows = await self.database.rows_when_back(self._statements.read, row_limit=limit, **self._given())
        return [self._kind(**row) for row in rows]

    async def read_due(self, limit: int) -> list[RowT]:
        """One of each routing key under which some are set aside, if their pause is over."""
        rows = await self.database.rows_when_back(self._statements.read_due, row_limit=limit, **self._given())
        return [self._kind(**row) for row in rows]

    async def look_aside(self) -> Aside:
        """What is set aside now."""
        (row,) = await self.database.rows_when_back(self._statements.look_aside, **self._given())
        return Aside(**row)

    async def forget(self, keys: Sequence[tuple[Any, ...]]) -> None:
        """Delete what is confirmed."""
        async with self.database.session() as connection:
            await connection.execute(self._statements.forget, as_arrays(self._key, keys))

    async def set_aside(
        self, refused: Sequence[tuple[RowT, str]], *, pause_seconds: float, cap_seconds: float
    ) -> None:
        """Try these again after a pause, twice as long each time; of each routing key one at a time."""
        rows = [(*row.key, _storable(why), row.routing_key) for row, why in refused]
        pauses = {"pause_seconds": pause_seconds, "cap_seconds": cap_seconds, **self._given()}
        columns = self._statements.refused_columns
        arrays = as_arrays(columns, [row[: len(columns)] for row in rows])
        async with self.database.transaction() as connection:
            await connection.execute(_NO_FSYNC)
            cursor = await connection.execute(self._statements.set_aside, {**arrays, **pauses})
            latest: dict[str, datetime] = {}
            for row in await cursor.fetchall():
                name = row["routing_key"]
                latest[name] = max(row["due_at"], latest.get(name, row["due_at"]))
            groups = {self._routing_key.name: list(latest), "due_at": list(latest.values())}
            await connection.execute(self._statements.postpone, {**groups, **self._given()})

    async def release(self, routing_keys: Sequence[str]) -> None:
        """Publish again all that is set aside under these: one got through."""
        async with self.database.session() as connection:
            given = {self._routing_key.name: list(routing_keys), **self._given()}
            await connection.execute(self._statements.release, given)


def _storable(why: str) -> str:
    return why[:MAX_ERROR_CHARACTERS].replace("\x00", "�").encode(errors="replace").decode()
