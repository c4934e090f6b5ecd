"""Statements as psycopg executes them: values arrive as they are, errors are told, sessions stay of use."""

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import tuple_row
from sqlalchemy import (
    ARRAY,
    Column,
    Float,
    Text,
    bindparam,
    column,
    func,
    literal,
    literal_column,
    null,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

from events.facts.base import Line
from events.runtime.settings import ProcessSettings
from events.storage.database import Connection, Database
from events.storage.sql import array_of, as_arrays, compiled, days, rows_of, seconds, setting, unsynced
from tests.runtime.test_round_trip import VALUES
from tests.servers import Servers

# The pipeline's statements take no floating-point numbers.
VALUES_HERE = [*VALUES, (Float(), 0.1)]


@pytest.fixture
async def database(servers: Servers) -> AsyncIterator[Database]:
    url = await servers.new_database()
    database = Database(ProcessSettings(broker_url="", database_url=url, http_port=0), "sql")
    await database.open()
    try:
        yield database
    finally:
        await database.close()


async def ask(connection: Connection, statement: bytes, **parameters: Any) -> list[tuple[Any, ...]]:
    async with connection.cursor(row_factory=tuple_row, binary=True) as cursor:
        await cursor.execute(statement, parameters, prepare=True)
        return await cursor.fetchall()


@pytest.mark.parametrize(
    ("kind", "value"), VALUES_HERE, ids=[f"{kind}-{value!r:.20}" for kind, value in VALUES_HERE]
)
async def test_a_value_arrives_as_it_is_alone_and_among_others(
    database: Database, kind: TypeEngine[Any], value: Any
) -> None:
    columns = [Column("value", kind)]
    as_rows = compiled(select(*rows_of(columns).c))
    array = compiled(select(bindparam("value", type_=ARRAY(kind))))
    async with database.session() as connection:
        for values in ([], [value], [value, None, value]):
            given = as_arrays(columns, [(one,) for one in values])
            assert await ask(connection, as_rows, **given) == [(one,) for one in values]
            assert await ask(connection, array, **given) == [(values,)]


async def test_models_become_json(database: Database) -> None:
    columns = [Column("lines", JSONB)]
    line = Line(sku="apple", quantity=2, amount_minor=500)
    async with database.session() as connection:
        given = as_arrays(columns, [((line,),)])
        assert await ask(connection, compiled(select(*rows_of(columns).c)), **given) == [
            ([line.model_dump()],)
        ]


async def test_constants_are_part_of_the_text(database: Database) -> None:
    given = column("given", Text)
    statement = compiled(
        select(literal("it's 5 %").label("text"), literal(7).label("number"), null().label("nothing"))
        .select_from(func.unnest(array_of("texts", given)).table_valued(given, name="rows").render_derived())
        .where(given.like("a%"), given != "%(b)s")
        .limit(1)
    )
    assert set(re.findall(rb"%\((\w+)\)", statement.replace(b"%%", b""))) == {b"texts"}
    assert await database.rows(statement, texts=["b", "ab", "ac"]) == [
        {"text": "it's 5 %", "number": 7, "nothing": None}
    ]


async def test_intervals(database: Database) -> None:
    statement = compiled(select(days("days").label("days"), seconds("seconds").label("seconds")))
    assert await database.rows(statement, days=90, seconds=2.5) == [
        {"days": timedelta(days=90), "seconds": timedelta(seconds=2.5)}
    ]


async def test_a_setting_holds_for_its_transaction(database: Database) -> None:
    show = b"SELECT current_setting('lock_timeout') AS value"
    async with database.session() as connection:
        async with connection.transaction():
            await connection.execute(compiled(setting("lock_timeout", "1234ms")))
            assert await (await connection.execute(show)).fetchone() == {"value": "1234ms"}
        assert await (await connection.execute(show)).fetchone() == {"value": "0"}


async def test_what_needs_no_disk_commits_without_waiting_for_it(database: Database) -> None:
    statement = compiled(
        select(func.current_setting(literal_column("'synchronous_commit'")).label("now")).where(unsynced())
    )
    assert await database.rows(statement) == [{"now": "off"}]
    assert await database.rows(b"SELECT current_setting('synchronous_commit') AS now") == [{"now": "on"}]


async def test_a_session_is_fit_after_an_error(database: Database) -> None:
    for _ in range(10):
        with pytest.raises(psycopg.errors.DivisionByZero):
            await _fail(database)
        assert await database.rows(b"SELECT 2 AS two") == [{"two": 2}]
    assert await database.rows(b"SELECT to_regclass('counted') IS NULL AS rolled_back") == [
        {"rolled_back": True}
    ]


async def _fail(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute("CREATE TABLE counted (number integer)")
        await connection.execute("SELECT 1 / 0")
