"""SQLAlchemy Core statements, compiled once into what psycopg executes: the way in which SQL is run here.

    cursor = await connection.execute(STATEMENT, {"order_ids": [...]})

Statements are set-based: a whole batch goes in as one array per column, so that a batch costs a constant
number of statements. The two round trips of a service's batch have a way of their own (`round_trip.py`).
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, cast

from psycopg.types.json import Jsonb
from psycopg.types.numeric import Int4, Int8
from pydantic_core import to_json
from sqlalchemy import (
    ARRAY,
    BigInteger,
    BindParameter,
    Column,
    ColumnElement,
    Double,
    Integer,
    Interval,
    Select,
    Table,
    any_,
    bindparam,
    column,
    extract,
    func,
    insert,
    literal,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, psycopg
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.sql.selectable import TableValuedAlias
from sqlalchemy.types import NullType, TypeEngine

_DIALECT = psycopg.dialect()  # type: ignore[no-untyped-call]
# Of a constant, a percent sign is doubled once, with the statement that it becomes part of.
_CONSTANT_DIALECT = psycopg.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
_ARRAY_PARAMETER = re.compile(rb"%\((\w+)\)s(?=::[A-Z ]+\[\])")


def compiled(statement: ClauseElement) -> bytes:
    """The text of a statement with psycopg's named parameters. What is constant in it is part of the text.

    Arrays are sent in binary: escaping JSON inside an array's text costs 18 us a value, this 0.2.
    """
    text = str(with_constants(statement).compile(dialect=_DIALECT))
    return _ARRAY_PARAMETER.sub(rb"%(\1)b", text.encode())


def with_constants(statement: ClauseElement) -> ClauseElement:
    """The statement with its constants as text, not as parameters: so they lead to a partial index."""
    return cast(ClauseElement, visitors.replacement_traverse(statement, {}, _as_text))


def _as_text(element: Any, **_: Any) -> ColumnElement[Any] | None:
    """A constant as SQL has it; None for anything else."""
    if not isinstance(element, BindParameter) or element.required:
        return None
    constant = literal(element.value) if isinstance(element.type, NullType) else element
    quoted = constant.compile(dialect=_CONSTANT_DIALECT, compile_kwargs={"literal_binds": True})
    return literal_column(str(quoted), constant.type)


def setting(name: str, value: str) -> Select[Any]:
    """A statement that changes a setting of PostgreSQL's for the rest of a transaction."""
    return select(func.set_config(name, value, True))


def unsynced() -> ColumnElement[bool]:
    """A condition that holds. A statement with it, which commits itself, waits for no disk to do so."""
    return setting("synchronous_commit", "off").scalar_subquery() == "off"


def array_of(name: str, like: ColumnElement[Any]) -> Any:
    """A parameter that takes a list of values of a column's type."""
    return bindparam(name, type_=ARRAY(like.type))


def is_in(values: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    """Whether a column's value is in the list that is given under this name."""
    condition: ColumnElement[bool] = values == array_of(name, values).any_()
    return condition


def is_among(value: ColumnElement[Any], chosen: Select[Any]) -> ColumnElement[bool]:
    """Whether a value is one of those that a statement selects, which is executed once.

    Within IN it may be executed several times. Where it skips what is locked, that is other rows each time:
    then all rows would be taken in the end, limit or not.
    """
    return any_(func.array(chosen.scalar_subquery())) == value


def days(name: str) -> ColumnElement[Any]:
    """An interval of so many days as are given under this name."""
    return func.make_interval(0, 0, 0, bindparam(name, type_=Integer), type_=Interval)


def seconds(name: str) -> ColumnElement[Any]:
    """An interval of so many seconds as are given under this name."""
    return func.make_interval(0, 0, 0, 0, 0, 0, bindparam(name, type_=Double), type_=Interval)


def in_seconds(interval: ColumnElement[Any]) -> ColumnElement[float]:
    """How many seconds an interval is."""
    return extract("epoch", interval).cast(Double)


def rows_of(columns: Sequence[Column[Any]]) -> TableValuedAlias:
    """The arrays given under the columns' names, side by side as rows."""
    arrays = (array_of(col.name, col) for col in columns)
    return (
        func.unnest(*arrays)
        .table_valued(*(column(col.name, col.type) for col in columns), name="given")
        .render_derived()
    )


def insert_rows(table: Table, columns: Sequence[Column[Any]]) -> Any:
    """INSERT of many rows from arrays; add `on_conflict_do_nothing` or `returning` to taste."""
    given = rows_of(columns)
    return insert(table).from_select([col.name for col in columns], select(*given.c))


def update_rows(table: Table, key: Column[Any], columns: Sequence[Column[Any]]) -> Any:
    """UPDATE of many rows, each found by `key`, from arrays."""
    given = rows_of([key, *columns])
    return (
        update(table).values({col.name: given.c[col.name] for col in columns}).where(key == given.c[key.name])
    )


def as_arrays(columns: Sequence[Column[Any]], rows: Iterable[Sequence[Any]]) -> dict[str, list[Any]]:
    """Rows, each with a value for every column, as one list per column: the shape that `rows_of` takes."""
    turned: Iterable[Sequence[Any]] = list(zip(*rows, strict=True)) or ((),) * len(columns)
    return {str(col.name): _adapted(col.type, values) for col, values in zip(columns, turned, strict=True)}


def _adapted(kind: TypeEngine[Any], values: Sequence[Any]) -> list[Any]:
    """Values that psycopg sends as this type: by others, it would take a statement for another one."""
    if isinstance(kind, JSONB):
        return [None if value is None else Jsonb(value, to_json) for value in values]
    if isinstance(kind, Integer):
        whole = Int8 if isinstance(kind, BigInteger) else Int4
        return [None if value is None else whole(value) for value in values]
    return list(values)


# For a transaction that is better tried again than left to wait long for a lock.
WAIT_BRIEFLY = compiled(setting("lock_timeout", "2s"))
# Whether a connection works.
ALIVE = compiled(select(literal(1)))
