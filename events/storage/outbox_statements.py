"""The statements by which an outbox is read and written, compiled for one table."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Float,
    Subquery,
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

from events.storage.sql import compiled, rows_of, unsynced

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
