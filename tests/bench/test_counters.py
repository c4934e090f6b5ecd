"""The servers' counts tell what was asked of them, no more and no less."""

import asyncio
import time
from collections.abc import Iterator

import aio_pika
import psycopg
import pytest

from compose.local.rig import LocalRig
from tests.bench.counters import (
    STATEMENTS_LIBRARY,
    Counters,
    snapshot,
    statement_times,
    top_statements,
)
from tests.runtime.standin_system import standin_blueprint
from tests.servers import clean_environment, rig_folder

DATABASE = "counted"
COMMITS = 20
MESSAGES = 30


@pytest.fixture(scope="module")
def rig() -> Iterator[LocalRig]:
    """Servers alone, of which PostgreSQL counts statements if it can."""
    with rig_folder() as folder:
        rig = LocalRig(
            folder,
            blueprint=standin_blueprint(),
            environment=clean_environment(),
            preload=[STATEMENTS_LIBRARY, "no_such_library"],
        )
        rig.up_servers()
        with psycopg.connect(rig.addresses.postgres_admin_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}")
        yield rig


def commit_often(rig: LocalRig) -> None:
    """In a session that ends, and so hands in its counts; returns when it has."""
    with psycopg.connect(rig.addresses.postgres.admin_url(DATABASE)) as connection:
        connection.execute("CREATE TABLE things (number integer)")
        connection.commit()
        for number in range(COMMITS):
            connection.execute("INSERT INTO things VALUES (%s), (%s)", [number, number])
            connection.commit()
        connection.execute("SET LOCAL synchronous_commit = off")
        connection.execute("DELETE FROM things")
        connection.commit()
    with psycopg.connect(rig.addresses.postgres_admin_url, autocommit=True) as connection:
        while connection.execute(f"SELECT FROM pg_stat_activity WHERE datname = '{DATABASE}'").fetchone():
            time.sleep(0.02)


async def publish_and_read(rig: LocalRig) -> None:
    url = rig.addresses.rabbitmq_admin_url
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        queue = await channel.declare_queue("counted", durable=True, arguments={"x-queue-type": "quorum"})
        for _ in range(MESSAGES):
            await channel.default_exchange.publish(aio_pika.Message(b"x"), queue.name)
        for _ in range(MESSAGES):
            await (await queue.get()).ack()
        # Behind the acknowledgements, which have no answer.
        await channel.declare_queue(queue.name, passive=True)


def test_commits_fsyncs_and_statements_are_counted(rig: LocalRig) -> None:
    before = snapshot(rig.addresses, settled=False)
    times_before = statement_times(rig.addresses)
    commit_often(rig)
    counted = snapshot(rig.addresses, settled=False) - before

    # Connecting is one, too.
    assert counted.commits[DATABASE] - (COMMITS + 2) in {0, 1}
    assert COMMITS + 1 <= counted.wal["fsyncs"] <= COMMITS + 10
    assert counted.wal["bytes"] > counted.wal["records"] > 2 * COMMITS
    if not counted.statements:
        pytest.skip("this PostgreSQL does not come with pg_stat_statements")
    # BEGIN and COMMIT are statements, too.
    assert counted.statements[DATABASE] == 3 * (COMMITS + 1) + 4
    assert counted.unsynced[DATABASE] == 1

    spent = top_statements(times_before, statement_times(rig.addresses), limit=50)
    inserts = next(times for times in spent if times.query.startswith("INSERT INTO things"))
    assert (inserts.database, inserts.calls, inserts.rows) == (DATABASE, COMMITS, 2 * COMMITS)
    assert f"{COMMITS} calls" in str(inserts)


def test_messages_and_the_brokers_fsyncs_are_counted(rig: LocalRig) -> None:
    before = snapshot(rig.addresses, settled=False)
    asyncio.run(publish_and_read(rig))
    counted = snapshot(rig.addresses, settled=False) - before

    for name in ("published", "confirmed", "routed", "delivered", "acknowledged"):
        assert counted.broker[name] == MESSAGES, name
    assert counted.broker["read_from_stream"] == 0
    assert counted.broker["fsyncs"] >= MESSAGES  # one publish at a time


def test_counts_are_shown_for_each_saga() -> None:
    counted = Counters(
        wal={"fsyncs": 300, "bytes": 50_000}, commits={"order": 200, "payment": 100}, broker={"fsyncs": 20}
    )
    each = counted.each(100)
    assert each.as_json()["commits"] == {"order": 2.0, "payment": 1.0}
    lines = {line[:18].strip(): line[19:] for line in each.lines()}
    assert lines["fsyncs"] == "3.00 by PostgreSQL, 0.20 by the broker"
    assert lines["WAL"] == "500 bytes"
    assert lines["transactions"] == "3.00: order 2.00, payment 1.00"
    assert lines["statements"] == "n/a"
