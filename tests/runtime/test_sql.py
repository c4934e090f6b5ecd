"""Statements as psycopg executes them: values arrive as they are, errors are told, sessions stay of use."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Float,
    Integer,
    Interval,
    MetaData,
    Table,
    Text,
    Uuid,
    bindparam,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

from events.facts.base import Line
from events.runtime.settings import ProcessSettings
from events.storage.database import Connection, Database
from events.storage.sql import as_arrays, compiled, insert_rows, rows_of, setting
from tests.runtime.eventually import eventually
from tests.servers import Servers

ORDER = UUID("5c2c1d1e-6f0e-4f0a-9a55-0f3f4f9b8c10")
VALUES: list[tuple[TypeEngine[Any], Any]] = [
    (Uuid(), ORDER),
    (Text(), "Zoë 🐦"),
    (Text(), ""),
    (Text(), None),
    (Integer(), -(2**31)),
    (BigInteger(), 2**63 - 1),
    (Boolean(), True),
    (Boolean(), False),
    (Float(), 0.1),
    (DateTime(timezone=True), datetime(2026, 11, 21, 20, 0, 0, 123_456, tzinfo=UTC)),
    (DateTime(timezone=True), datetime(1969, 7, 20, 20, 17, 0, 1, tzinfo=UTC)),
    (Date(), date(1999, 12, 31)),
    (Interval(), timedelta(days=-2, microseconds=7)),
    (JSONB(), {"lines": [1, None, "é"]}),
]

_metadata = MetaData()
counted = Table("counted", _metadata, Column("number", Integer), Column("note", Text))
_CREATE = b"CREATE TABLE counted (number integer, note text)"


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


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=[f"{kind}-{value!r:.20}" for kind, value in VALUES])
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


async def test_what_is_sent_together_is_one_transaction_and_answered_in_order(database: Database) -> None:
    insert = compiled(insert_rows(counted, [counted.c.number]).returning(counted.c.number))
    async with database.pipeline() as (connection, pipeline):
        await connection.execute(_CREATE)
        cursors = [await connection.execute(insert, {"number": [number]}) for number in range(3)]
        total = await connection.execute(compiled(select(func.count()).select_from(counted)))
        await pipeline.sync()
        assert [await cursor.fetchall() for cursor in cursors] == [[{"number": one}] for one in range(3)]
        assert await total.fetchone() == {"count_1": 3}
        with pytest.raises(psycopg.errors.UndefinedTable):
            await database.rows(b"SELECT FROM counted")
    assert len(await database.rows(b"SELECT FROM counted")) == 3


async def test_a_setting_holds_for_its_transaction(database: Database) -> None:
    show = b"SELECT current_setting('lock_timeout') AS value"
    async with database.session() as connection:
        async with connection.transaction():
            await connection.execute(compiled(setting("lock_timeout", "1234ms")))
            assert await (await connection.execute(show)).fetchone() == {"value": "1234ms"}
        assert await (await connection.execute(show)).fetchone() == {"value": "0"}


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        (b"SELECT 1 / 0", psycopg.errors.DivisionByZero),
        (b"SELECT 1 FROM nowhere", psycopg.errors.UndefinedTable),
    ],
)
async def test_an_error_is_the_first_one_and_the_session_goes_on(
    database: Database, statement: bytes, error: type[psycopg.Error]
) -> None:
    connection: Connection | None = None

    async def fail() -> None:
        nonlocal connection
        async with database.pipeline() as (connection, _):
            await connection.execute(b"SELECT 1", prepare=True)
            await connection.execute(statement, prepare=True)
            await connection.execute(b"SELECT 2 FROM nowhere_else", prepare=True)

    with pytest.raises(error):
        await fail()
    assert connection is not None
    assert connection.info.transaction_status == TransactionStatus.IDLE
    # The one that was never prepared there is known as such.
    with pytest.raises(error):
        await ask(connection, statement)
    assert await ask(connection, b"SELECT 2") == [(2,)]


async def test_who_is_cancelled_leaves_a_session_that_is_fit_or_closed(database: Database) -> None:
    async def sleep() -> None:
        async with database.pipeline() as (connection, pipeline):
            await connection.execute(b"SELECT pg_sleep(60)::text")
            await pipeline.sync()

    asking = asyncio.create_task(sleep())
    await eventually(lambda: _sleeps(database))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert not await _sleeps(database)
    for _ in range(10):
        assert await database.rows(b"SELECT 2 AS two") == [{"two": 2}]


async def _sleeps(database: Database) -> bool:
    return bool(
        await database.rows(
            b"SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
        )
    )
