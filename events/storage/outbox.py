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

from prometheus_client.metrics_core import Metric
from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Float,
    Select,
    Subquery,
    Table,
    and_,
    bindparam,
    case,
    delete,
    false,
    func,
    literal,
    literal_column,
    null,
    select,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import distinct_on

from events.storage.database import Connection, Database
from events.storage.sql import as_arrays, compiled, in_seconds, rows_of, setting, unsynced
from events.storage.tables import calls, outbox
from events.telemetry.metrics import backlog, refused

# The statements by which an outbox is read and written, compiled for one table.


_ZERO: ColumnElement[int] = literal_column("0")
_ONE: ColumnElement[int] = literal_column("1")


class OutboxStatements:
    """`mine` says which rows are this process's; `columns` are those that make a message."""

    def __init__(
        self,
        table: Table,
        columns: Sequence[Column[Any]],
        key: Sequence[Column[Any]],
        routing_key: Column[Any],
        age: Column[Any],
        mine: Sequence[ColumnElement[bool]],
    ) -> None:
        self._table = table
        self._key = key
        self._routing_key = routing_key
        self._mine = mine
        limit: BindParameter[int] = bindparam("row_limit")
        aside, due = table.c.due_at.is_not(None), table.c.due_at <= func.now()
        ready = table.c.due_at.is_(None)
        self.read = compiled(select(*columns).where(*mine, ready).order_by(age).limit(limit))
        self.read_due = compiled(
            select(*columns)
            .ext(distinct_on(routing_key))
            .where(*mine, due)
            .order_by(routing_key, table.c.due_at, table.c.refusals)
            .limit(limit)
        )
        self.look_aside = compiled(
            select(func.count().label("count"), func.coalesce(func.bool_or(due), false()).label("due"))
            .select_from(table)
            .where(*mine, aside)
        )
        keys = rows_of(key)
        self.forget = compiled(delete(table).where(tuple_(*key).in_(select(*keys.c)), unsynced()))
        # Of what is refused, each once: its key, why, and under which routing key.
        others = [] if routing_key.name in {column.name for column in key} else [routing_key]
        self.refused_columns = [*key, table.c.last_error, *others]
        self.set_aside = compiled(self._set_aside())
        latest = rows_of([routing_key, table.c.due_at])
        waiting = [*mine, aside, routing_key == latest.c[routing_key.name]]
        self.postpone = compiled(
            update(table).values(due_at=latest.c.due_at).where(*waiting, table.c.due_at < latest.c.due_at)
        )
        passed = rows_of([routing_key])
        through = routing_key == passed.c[routing_key.name]
        self.release = compiled(update(table).values(due_at=null()).where(*mine, aside, through, unsynced()))

    def _set_aside(self) -> Any:
        """One that is refused for the first time waits with those that wait already: it says nothing new.

        One that is refused again says it for all of them: the pause grows with what they were refused in all.
        """
        table, found = self._table, self._refused_with_their_like()
        first = table.c.refusals == _ZERO
        refusals = func.greatest(table.c.refusals, func.coalesce(found.c.most_refusals, _ZERO))
        return (
            update(table)
            .values(
                refusals=case((first, _ONE), else_=refusals + _ONE),
                due_at=case(
                    (first, func.coalesce(found.c.latest_due_at, func.now() + _pause(_ZERO))),
                    else_=func.now() + _pause(refusals),
                ),
                last_error=found.c.last_error,
            )
            .where(and_(*(column == found.c[column.name] for column in self._key)))
            .returning(self._routing_key.label("routing_key"), table.c.due_at)
        )

    def _refused_with_their_like(self) -> Subquery:
        """What is refused now, each with what is known of those set aside under its routing key."""
        table, name = self._table, self._routing_key.name
        refused = rows_of(self.refused_columns)
        waiting = (
            select(
                self._routing_key,
                func.max(table.c.due_at).label("latest_due_at"),
                func.max(table.c.refusals).label("most_refusals"),
            )
            .where(*self._mine, table.c.due_at.is_not(None))
            .where(self._routing_key.in_(select(refused.c[name])))
            .group_by(self._routing_key)
            .subquery("waiting")
        )
        return (
            select(*refused.c, waiting.c.latest_due_at, waiting.c.most_refusals)
            .select_from(refused.outerjoin(waiting, waiting.c[name] == refused.c[name]))
            .subquery("found")
        )


def _pause(refusals: ColumnElement[Any]) -> Any:
    """Doubled with each refusal so far, up to the cap."""
    doubled = bindparam("pause_seconds", type_=Float) * func.power(
        literal_column("2.0"), func.least(refusals, literal_column("30"))
    )
    seconds = func.least(bindparam("cap_seconds", type_=Float), doubled)
    return seconds * literal_column("interval '1 second'")


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


# How much waits in a service's tables, and for how long.
#
# Looked up rather than counted in memory: what an instance left behind that died belongs to nobody until it
# is adopted, and it is what a person must know of. Both tables are empty most of the time; no index serves
# the age of the oldest, for it would cost every fact something, so no more than so many rows are looked at.

MAX_ROWS = 10_000


def _backlog(
    what: str, since: Column[Any], set_aside_until: ColumnElement[Any]
) -> Select[str, int, float, int]:
    first = select(since.label("since"), set_aside_until.label("until")).limit(MAX_ROWS).subquery("first")
    return select(
        literal(what).label("what"),
        func.count().label("waiting"),
        in_seconds(func.now() - func.min(first.c.since)).label("age"),
        func.count(first.c.until).label("refused"),
    )


_READ = compiled(
    union_all(
        _backlog("outbox", outbox.c.stated_at, outbox.c.due_at),
        _backlog("calls", calls.c.asked_at, null()),
    )
)


async def read_backlogs(connection: Connection) -> list[Metric]:
    """The backlogs of the outbox and of the calls, and how much of the first is set aside.

    Of very many, the oldest may be missed by a little.
    """
    cursor = await connection.execute(_READ)
    found = {row["what"]: row for row in await cursor.fetchall()}
    return [
        *backlog(
            "outbox",
            f"Facts that are committed and not confirmed by the broker, of all instances, up to {MAX_ROWS}",
            found["outbox"],
        ),
        refused(found["outbox"]["refused"]),
        *backlog(
            "call",
            f"Calls to the outside whose outcome is not committed, of all instances, up to {MAX_ROWS}",
            found["calls"],
        ),
    ]
