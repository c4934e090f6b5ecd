"""The inbox forgets what is old, a little at a time, and nothing else."""

from typing import LiteralString
from uuid import uuid4

import psycopg
import pytest
from psycopg.sql import SQL

from events.storage import retention
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage
from tests.runtime.toy.facts import Bumped

DAYS = 7
# Of many pages, and several transactions.
ROWS = 30_000


async def received(stage: Stage, days_ago: int, rows: int = ROWS) -> None:
    await stage.rows(
        """
        INSERT INTO inbox (fact_id, heard_at)
        SELECT gen_random_uuid(), now() - make_interval(days => %(days)s) FROM generate_series(1, %(rows)s)
        """,
        days=days_ago,
        rows=rows,
    )


def walk_in_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """And without long rests: where a database is slow they come to more than a test waits."""
    monkeypatch.setattr(retention, "PAGES_AT_ONCE", 32)
    monkeypatch.setattr(retention, "SHARE_OF_TIME", 0.5)


async def count(stage: Stage, where: LiteralString = "true") -> int:
    found = await stage.rows("SELECT count(*) AS size FROM inbox WHERE " + where)
    return int(found[0]["size"])


async def test_what_is_old_is_forgotten_and_nothing_else(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk_in_small_steps(monkeypatch)
    order = uuid4()
    [fact_id] = await stage.say(Bumped(order_id=order))
    await received(stage, DAYS - 1)
    await received(stage, DAYS + 1)
    await received(stage, DAYS - 1)
    await stage.start(inbox_retention_days=DAYS)
    await eventually(lambda: stage.published(order))

    async def only_recent() -> bool:
        return await count(stage) == 2 * ROWS + 1

    await eventually(only_recent)
    assert await count(stage, "heard_at < now() - interval '7 days'") == 0
    await stage.say(Bumped(order_id=order), fact_id=fact_id)
    await eventually(stage.drained)
    assert await stage.count_of(order) == 1


async def test_two_instances_and_several_walks(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    walk_in_small_steps(monkeypatch)
    for _ in range(2):
        await stage.start(inbox_retention_days=DAYS, inbox_walk_seconds=0.1)
    for _ in range(2):
        await received(stage, DAYS + 1)

        async def none_left() -> bool:
            return await count(stage) == 0

        await eventually(none_left)


async def test_it_goes_on_after_a_failure(stage: Stage) -> None:
    await stage.rows("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END'")
    await stage.rows("CREATE TRIGGER refuse BEFORE DELETE ON inbox FOR EACH ROW EXECUTE FUNCTION refuse()")
    await received(stage, DAYS + 1, 10)
    host = await stage.start(inbox_retention_days=DAYS, inbox_walk_seconds=0.1)
    order = uuid4()
    await stage.say(Bumped(order_id=order))
    await eventually(lambda: stage.published(order))
    assert all((await host.ready()).values())
    assert await count(stage) == 11
    await stage.rows("DROP TRIGGER refuse ON inbox")

    async def old_is_gone() -> bool:
        return await count(stage) == 1

    await eventually(old_is_gone)


async def test_for_ever(stage: Stage) -> None:
    await received(stage, 10_000, 10)
    host = await stage.start(inbox_retention_days=0, inbox_walk_seconds=0.01)
    orders = [uuid4() for _ in range(3)]
    await stage.say(*(Bumped(order_id=order) for order in orders))
    await eventually(lambda: len(stage.published(*orders)) == len(orders))
    assert all((await host.ready()).values())
    assert await count(stage) == 13


async def test_each_step_reads_its_own_pages_alone(stage: Stage) -> None:
    await received(stage, 1)
    statement = retention._FORGET.decode()
    async with await psycopg.AsyncConnection.connect(stage.database_url) as connection:
        cursor = await connection.execute(
            SQL("EXPLAIN ") + SQL(statement),
            {"first": 64, "end": 128, "days": DAYS},
        )
        plan = "\n".join([row[0] async for row in cursor])
    assert "Tid Range Scan" in plan
