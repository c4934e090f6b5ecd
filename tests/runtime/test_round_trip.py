"""Round trips with a real PostgreSQL: values arrive as they are, errors are told, sessions stay of use."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
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
    Text,
    Uuid,
    bindparam,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

from events.facts.base import Line
from events.runtime.settings import ProcessSettings
from events.storage.database import Database, Session
from events.storage.round_trip import BEGIN, COMMIT, RoundTrip, prepared
from events.storage.sql import as_arrays, rows_of
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
    (DateTime(timezone=True), datetime(2026, 11, 21, 20, 0, 0, 123_456, tzinfo=UTC)),
    (DateTime(timezone=True), datetime(1969, 7, 20, 20, 17, 0, 1, tzinfo=UTC)),
    (Date(), date(1999, 12, 31)),
    (Interval(), timedelta(days=-2, microseconds=7)),
    (JSONB(), {"lines": [1, None, "é"]}),
]


@pytest.fixture
async def session(servers: Servers) -> AsyncIterator[Session]:
    url = await servers.new_database()
    async with await Session.connect(url, row_factory=dict_row, autocommit=True) as session:
        yield session


async def ask(session: Session, statement: Any, **parameters: Any) -> list[tuple[Any, ...]]:
    trip = RoundTrip(session)
    returned = trip.add(statement, **parameters)
    await trip.run()
    return returned.rows


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=[f"{kind}-{value!r:.20}" for kind, value in VALUES])
async def test_a_value_arrives_as_it_is_alone_and_among_others(
    session: Session, kind: TypeEngine[Any], value: Any
) -> None:
    alone = prepared(select(bindparam("value", type_=kind)))
    assert await ask(session, alone, value=value) == [(value,)]
    array = prepared(select(bindparam("values", type_=ARRAY(kind))))
    for values in ([], [value], [value, None, value]):
        assert await ask(session, array, values=values) == [(values,)]


async def test_models_become_json(session: Session) -> None:
    columns = [Column("lines", JSONB)]
    line = Line(sku="apple", quantity=2, amount_minor=500)
    given = as_arrays(columns, [((line,),), ([line],)])
    assert await ask(session, prepared(select(*rows_of(columns).c)), **given) == 2 * [([line.model_dump()],)]


def test_a_type_without_a_format_is_refused_when_the_statement_is_made() -> None:
    with pytest.raises(TypeError, match="Float"):
        prepared(select(bindparam("value", type_=Float)))


async def test_a_statement_is_prepared_once_in_a_session(session: Session) -> None:
    statement = prepared(select(bindparam("value", type_=Integer)))
    for _ in range(3):
        await ask(session, statement, value=1)
    cursor = await session.execute("SELECT count(*) AS known FROM pg_prepared_statements")
    assert await cursor.fetchone() == {"known": 1}


async def test_what_is_sent_together_is_one_transaction_and_answered_in_order(session: Session) -> None:
    trip = RoundTrip(session)
    trip.add(BEGIN)
    trip.add(prepared(text("CREATE TABLE counted (number integer)")))
    trip.add(COMMIT)
    await trip.run()
    insert = prepared(
        text("INSERT INTO counted VALUES (:number) RETURNING number").bindparams(
            bindparam("number", type_=Integer)
        )
    )
    trip = RoundTrip(session)
    returned = [trip.add(insert, number=number) for number in range(3)]
    total = trip.add(prepared(text("SELECT count(*) FROM counted")))
    await trip.run()
    assert [each.rows for each in returned] == [[(0,)], [(1,)], [(2,)]]
    assert total.rows == [(3,)]


async def test_an_error_is_the_first_one_and_the_session_goes_on(session: Session) -> None:
    trip = RoundTrip(session)
    trip.add(BEGIN)
    trip.add(prepared(text("SELECT 1 / 0")))
    trip.add(prepared(text("SELECT 1 FROM nowhere")))
    trip.add(COMMIT)
    with pytest.raises(psycopg.errors.DivisionByZero):
        await trip.run()
    assert session.info.transaction_status == TransactionStatus.INERROR
    await session.rollback()
    # The one that was never prepared there is known as such.
    with pytest.raises(psycopg.errors.UndefinedTable):
        await ask(session, prepared(text("SELECT 1 FROM nowhere")))
    assert await ask(session, prepared(text("SELECT 2"))) == [(2,)]


async def test_what_psycopg_does_to_a_session_of_the_pool_leaves_its_statements_alone(
    servers: Servers,
) -> None:
    """Where psycopg had prepared a statement of its own, it would have all forgotten after a rollback."""
    url = await servers.new_database()
    database = Database(ProcessSettings(broker_url="", database_url=url, http_port=0), "trips")
    statement = prepared(text("SELECT 2"))
    await database.open()
    try:
        async with database.session() as connection:
            await ask(connection, BEGIN)
            for _ in range(10):
                await connection.execute("SELECT 1")
            assert await ask(connection, statement) == [(2,)]
            await connection.rollback()
            await connection.execute("SELECT 1")
            assert await ask(connection, statement) == [(2,)]
    finally:
        await database.close()


async def test_a_session_that_has_lost_its_statements_is_given_up(session: Session) -> None:
    assert await ask(session, prepared(text("SELECT 2"))) == [(2,)]
    await session.execute("DEALLOCATE ALL")
    with pytest.raises(psycopg.OperationalError, match="not as it was left"):
        await ask(session, prepared(text("SELECT 2")))
    assert session.closed


async def test_a_session_that_ends_meanwhile_says_so(session: Session) -> None:
    with pytest.raises(psycopg.OperationalError):
        await ask(session, prepared(text("SELECT pg_terminate_backend(pg_backend_pid())::text")))
    assert session.broken


async def test_who_is_cancelled_leaves_a_session_that_is_fit_or_closed(session: Session) -> None:
    asking = asyncio.create_task(ask(session, prepared(text("SELECT pg_sleep(60)::text"))))
    watching = await psycopg.AsyncConnection.connect(session.info.dsn, password=session.info.password)
    async with watching:
        await eventually(lambda: _sleeps(watching))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert session.closed or await ask(session, prepared(text("SELECT 2"))) == [(2,)]


async def _sleeps(connection: psycopg.AsyncConnection[Any]) -> bool:
    found = await connection.execute(
        "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    )
    return found.rowcount > 0
