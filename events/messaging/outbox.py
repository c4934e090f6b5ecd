"""A table of committed messages on their way to the broker: a service's outbox, or the tracker's.

What the broker refused is set aside in the table itself, by `due_at`, so that it outlasts a restart and its
number has no bound in memory. Of all that is set aside under one routing key a single message is tried again
at a time, after growing pauses: each attempt puts a copy into every other queue that is bound to the key.
Once one is confirmed, the others follow.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Float,
    Table,
    and_,
    bindparam,
    case,
    delete,
    false,
    func,
    literal_column,
    null,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import distinct_on

from events.runtime.database import Connection, Database
from events.runtime.sql import as_arrays, compiled, rows_of

MAX_ERROR_CHARACTERS = 500
# Losing a commit in a crash of the server only means that something is published, or set aside, once more.
_NO_FSYNC = b"SET LOCAL synchronous_commit = off"


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
        limit: BindParameter[int] = bindparam("row_limit")
        aside, ready = table.c.due_at.is_not(None), table.c.due_at.is_(None)
        due = table.c.due_at <= func.now()
        self._read = compiled(select(*columns).where(*mine, ready).order_by(age).limit(limit))
        self._read_due = compiled(
            select(*columns)
            .ext(distinct_on(routing_key))
            .where(*mine, due)
            .order_by(routing_key, table.c.due_at, table.c.refusals)
            .limit(limit)
        )
        self._look = compiled(
            select(func.count().label("count"), func.coalesce(func.bool_or(due), false()).label("due"))
            .select_from(table)
            .where(*mine, aside)
        )
        keys = rows_of(self._key)
        self._forget = compiled(delete(table).where(tuple_(*self._key).in_(select(*keys.c))))
        refused = rows_of([*self._key, table.c.last_error])
        self._set_aside = compiled(
            update(table)
            .values(
                refusals=table.c.refusals + literal_column("1"),
                due_at=func.now() + _pause(table.c.refusals),
                last_error=refused.c.last_error,
            )
            .where(and_(*(column == refused.c[column.name] for column in self._key)))
            .returning(routing_key.label("routing_key"), table.c.due_at)
        )
        groups = rows_of([routing_key, table.c.due_at])
        same = [*mine, aside, routing_key == groups.c[routing_key.name]]
        self._postpone = compiled(
            update(table)
            .values(due_at=case((table.c.due_at < groups.c.due_at, groups.c.due_at), else_=table.c.due_at))
            .where(*same)
        )
        released = rows_of([routing_key])
        self._release = compiled(
            update(table)
            .values(due_at=null())
            .where(*mine, aside, routing_key == released.c[routing_key.name])
        )
        self._routing_key = routing_key

    async def read(self, limit: int) -> list[RowT]:
        """The oldest that are not set aside."""
        rows = await self.database.rows_when_back(self._read, row_limit=limit, **self._given())
        return [self._kind(**row) for row in rows]

    async def read_due(self, limit: int) -> list[RowT]:
        """One of each routing key under which some are set aside, if their pause is over."""
        rows = await self.database.rows_when_back(self._read_due, row_limit=limit, **self._given())
        return [self._kind(**row) for row in rows]

    async def look_aside(self) -> Aside:
        """What is set aside now."""
        (row,) = await self.database.rows_when_back(self._look, **self._given())
        return Aside(**row)

    async def forget(self, keys: Sequence[tuple[Any, ...]]) -> None:
        """Delete what is confirmed."""
        async with self._briefly() as connection:
            await connection.execute(self._forget, self._arrays(self._key, keys))

    async def set_aside(
        self, refused: Sequence[tuple[RowT, str]], *, pause_seconds: float, cap_seconds: float
    ) -> None:
        """Try these again after a pause, twice as long each time; of each routing key one at a time."""
        columns = [*self._key, Column("last_error", literal_column("''").type)]
        rows = [(*row.key, _storable(why)) for row, why in refused]
        pauses = {"pause_seconds": pause_seconds, "cap_seconds": cap_seconds}
        arrays = self._arrays(columns, rows)
        async with self._briefly() as connection:
            cursor = await connection.execute(self._set_aside, {**arrays, **pauses})
            latest: dict[str, datetime] = {}
            for row in await cursor.fetchall():
                name = row["routing_key"]
                latest[name] = max(row["due_at"], latest.get(name, row["due_at"]))
            groups = {self._routing_key.name: list(latest), "due_at": list(latest.values())}
            await connection.execute(self._postpone, {**groups, **self._given()})

    async def release(self, routing_keys: Sequence[str]) -> None:
        """Publish again all that is set aside under these: one got through."""
        async with self._briefly() as connection:
            given = {self._routing_key.name: list(routing_keys), **self._given()}
            await connection.execute(self._release, given)

    def _briefly(self) -> "_Unsynced":
        return _Unsynced(self.database)

    def _arrays(self, columns: Sequence[Column[Any]], rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
        names = [column.name for column in columns]
        return as_arrays(columns, [dict(zip(names, row, strict=True)) for row in rows])


class _Unsynced:
    """A transaction whose commit waits for no disk."""

    def __init__(self, database: Database) -> None:
        self._transaction = database.transaction()

    async def __aenter__(self) -> Connection:
        connection = await self._transaction.__aenter__()
        await connection.execute(_NO_FSYNC)
        return connection

    async def __aexit__(self, *error: Any) -> None:
        await self._transaction.__aexit__(*error)


def _pause(refusals: Column[Any]) -> Any:
    doubled = bindparam("pause_seconds", type_=Float) * func.power(
        literal_column("2.0"), func.least(refusals, literal_column("30"))
    )
    seconds = func.least(bindparam("cap_seconds", type_=Float), doubled)
    return seconds * literal_column("interval '1 second'")


def _storable(why: str) -> str:
    return why[:MAX_ERROR_CHARACTERS].replace("\x00", "�").encode(errors="replace").decode()
