"""A session that the server ends while it is idle is replaced before anybody is told."""

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from functools import partial
from typing import Any
from uuid import uuid4

import aiohttp
import psycopg
import pytest

from events.storage.database import Database
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage
from tests.runtime.toy.decide import Bump
from tests.runtime.toy.facts import Bumped, RingWanted

Logged = list[MutableMapping[str, Any]]
ROUNDS = 3
ALL_AT_ONCE = 20


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def end_sessions(stage: Stage) -> None:
    """Of everybody, as an administrator does, or a time limit for idle sessions."""
    await stage.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


def outages(logged: Logged) -> list[Any]:
    return [line for line in logged if line["event"].startswith("outage")]


async def test_whoever_reads_or_writes_next_does_not_notice(
    stage: Stage, http: aiohttp.ClientSession, logged: Logged
) -> None:
    host = await stage.start()
    url = await stage.serve(host)
    order = uuid4()
    assert (await host.ask(Bump(order_id=order))).count == 1

    async def get(path: str) -> int:
        async with http.get(url + path) as answer:
            return answer.status

    for expected in range(2, 2 + ROUNDS):
        await end_sessions(stage)
        # As many at once as find every connection of the pool dead.
        found = await asyncio.gather(*(get(f"/tallies/{order}") for _ in range(ALL_AT_ONCE)))
        assert found == [200] * ALL_AT_ONCE
        await end_sessions(stage)
        async with http.get(f"{url}/readyz") as answer:
            assert answer.status == 200, await answer.text()
        await end_sessions(stage)
        assert (await host.ask(Bump(order_id=order))).count == expected
        await eventually(stage.drained)
    await eventually(stage.drained)
    assert len(set(stage.published(order))) == ROUNDS + 1
    assert outages(logged) == []


async def test_neither_do_facts_and_calls_nor_the_loops(stage: Stage, logged: Logged) -> None:
    await stage.start()
    for _ in range(ROUNDS):
        order = uuid4()
        await end_sessions(stage)
        await stage.say(Bumped(order_id=order), RingWanted(order_id=order, plan=("fails", "answers")))
        await eventually(partial(stage.published, order, kind="answered"))
        await end_sessions(stage)
        await eventually(stage.drained)
        assert await stage.count_of(order) == 1
    assert outages(logged) == []


async def test_a_session_that_ends_in_the_middle_of_what_only_reads_is_no_outage_either(
    stage: Stage, logged: Logged
) -> None:
    host = await stage.start()
    reading = asyncio.create_task(host.database.rows(b"SELECT pg_sleep(1.5)::text AS slept"))
    await eventually(lambda: _sleeps(stage))
    await stage.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%%pg_sleep(1.5)%%'"
        " AND pid <> pg_backend_pid()"
    )
    assert await reading == [{"slept": ""}]
    assert outages(logged) == []


async def test_sessions_that_idle_too_long_for_the_server_are_replaced(
    stage: Stage, http: aiohttp.ClientSession, logged: Logged
) -> None:
    name = psycopg.conninfo.conninfo_to_dict(stage.database_url)["dbname"]
    async with await psycopg.AsyncConnection.connect(stage.database_url, autocommit=True) as connection:
        await connection.execute(f"ALTER DATABASE \"{name}\" SET idle_session_timeout = '200ms'".encode())
    host = await stage.start(sweep_seconds=60)
    url = await stage.serve(host)
    order = uuid4()
    await host.ask(Bump(order_id=order))
    for _ in range(ROUNDS):
        await eventually(lambda: _none_idles(stage))
        async with http.get(f"{url}/tallies/{order}") as answer:
            assert answer.status == 200
    assert outages(logged) == []


async def test_a_database_whose_sessions_end_over_and_over_is_an_outage(stage: Stage, logged: Logged) -> None:
    """What never works again is said, though the server answers whoever asks it whether it is there."""
    host = stage.host()
    database: Database = host.database
    await database.open()
    assert await database.working()
    why = psycopg.OperationalError("the session is gone")
    for _ in range(4 * host.settings.database_pool_size):
        await database.wait_until_back(why)
    assert outages(logged) == []
    await database.wait_until_back(why)
    assert [line["event"] for line in outages(logged)] == ["outage_began", "outage_ended"]
    await database.close()


async def _sleeps(stage: Stage) -> bool:
    found = await stage.rows(
        "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    )
    return bool(found)


async def _none_idles(stage: Stage) -> bool:
    """But for the instance's own session, which is kept alive."""
    found = await stage.rows(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'toy' AND datname = current_database()"
    )
    return not found
