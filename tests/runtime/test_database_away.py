"""The database may go away at any moment, for any time: the service waits, and nothing is lost or doubled."""

import asyncio
from collections.abc import MutableMapping, Sequence
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from compose.drills.local_rig import Proxy
from events.runtime.batch import Batch, Committed
from events.runtime.input import Input
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage, is_ready, message
from tests.runtime.toy.decide import RaiseTo
from tests.runtime.toy.facts import Bumped, RingWanted

Logged = list[MutableMapping[str, Any]]
# What a batch sends before its COMMIT, and the relay and the sweeps do not.
IN_A_BATCH = b"INSERT INTO outbox"


def outages(logged: Logged) -> list[str]:
    return [line["event"] for line in logged if line.get("of") == "database"]


async def start_behind(stage: Stage, proxy: Proxy, **changes: Any) -> Any:
    return await stage.start(database_url=proxy.url(stage.database_url), **changes)


async def test_facts_wait_for_the_database_to_come_back(stage: Stage, logged: Logged) -> None:
    proxy = await stage.proxy_database()
    await start_behind(stage, proxy)
    orders = [uuid4() for _ in range(30)]
    proxy.cut()
    await stage.say(*(Bumped(order_id=order) for order in orders))
    await eventually(lambda: outages(logged))
    await eventually(lambda: proxy.refused >= 10)
    assert outages(logged) == ["outage_began"]
    assert not stage.published(*orders)
    proxy.restore()
    await eventually(lambda: len(set(stage.published(*orders))) == 30)
    await eventually(stage.drained)
    assert await stage.counts(orders) == dict.fromkeys(orders, 1)
    assert outages(logged) == ["outage_began", "outage_ended"]
    assert not await stage.dead_letters()


async def test_a_connection_lost_in_the_middle_of_a_batch(stage: Stage) -> None:
    proxy = await stage.proxy_database()
    await start_behind(stage, proxy)
    held, orders = uuid4(), [uuid4() for _ in range(10)]
    await stage.say(Bumped(order_id=held))
    await eventually(lambda: stage.published(held))
    async with stage.holding(held):
        await stage.publish(*(message(Bumped(order_id=order), uuid4()) for order in (held, *orders)))
        await eventually(stage.blocked)
        proxy.drop_connections()
    await eventually(lambda: len(stage.published(held, *orders)) == 12)
    await eventually(stage.drained)
    assert await stage.count_of(held) == 2
    assert await stage.counts(orders) == dict.fromkeys(orders, 1)


async def test_a_server_that_ends_every_session_is_not_much_of_an_outage(stage: Stage) -> None:
    await stage.start()
    order = uuid4()
    for expected in range(1, 4):
        await stage.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await stage.say(Bumped(order_id=order))
        await eventually(lambda expected=expected: len(stage.published(order)) == expected)  # type: ignore[misc]
    assert await stage.count_of(order) == 3
    assert not await stage.dead_letters()


async def test_a_commit_whose_answer_got_lost_is_not_repeated_but_published(stage: Stage) -> None:
    proxy = await stage.proxy_database()
    await start_behind(stage, proxy)
    orders = [uuid4() for _ in range(5)]
    proxy.lose_answer(b"COMMIT", after=IN_A_BATCH)
    await stage.say(*(Bumped(order_id=order) for order in orders))
    await eventually(lambda: len(set(stage.published(*orders))) == 5)
    assert proxy.lost.is_set()
    await eventually(stage.drained)
    assert await stage.counts(orders) == dict.fromkeys(orders, 1)
    assert await stage.size("inbox") == 5


async def test_a_lost_commit_that_takes_its_time_is_published_too(stage: Stage) -> None:
    """The service is back, and trying again, while the server is still at the commit it lost."""
    await stage.rows(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN IF NEW.count = 7 THEN PERFORM pg_sleep(1.5); END IF; RETURN NULL; END'"
    )
    await stage.rows(
        "CREATE CONSTRAINT TRIGGER dawdling AFTER INSERT ON tallies DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION dawdle()"
    )
    proxy = await stage.proxy_database()
    await start_behind(stage, proxy, sweep_seconds=60)
    order = uuid4()
    proxy.lose_answer(b"COMMIT", after=IN_A_BATCH, at_once=True)
    await stage.say(Bumped(order_id=order, by=7))
    await eventually(lambda: stage.published(order))
    assert await stage.count_of(order) == 7
    await eventually(stage.drained)


async def test_neither_are_the_calls_of_such_a_commit_lost(stage: Stage) -> None:
    proxy = await stage.proxy_database()
    await start_behind(stage, proxy)
    order = uuid4()
    proxy.lose_answer(b"COMMIT", after=b"INSERT INTO calls")
    await stage.say(RingWanted(order_id=order))
    await eventually(lambda: stage.published(order, kind="answered"))
    assert proxy.lost.is_set()
    assert stage.outside.book.count("asked") == {f"ring:{order}": 1}
    await eventually(stage.drained)


async def test_a_command_whose_commit_got_lost_is_answered_all_the_same(stage: Stage) -> None:
    proxy = await stage.proxy_database()
    host = await start_behind(stage, proxy)
    order = uuid4()
    proxy.lose_answer(b"COMMIT", after=IN_A_BATCH)
    tally = await host.ask(RaiseTo(order_id=order, count=5))
    assert proxy.lost.is_set()
    assert tally.count == 5
    await eventually(lambda: stage.published(order))
    await eventually(stage.drained)
    assert len(set(stage.published(order))) == 1


async def test_the_outcome_of_a_call_waits_for_the_database(stage: Stage, logged: Logged) -> None:
    proxy = await stage.proxy_database()
    await start_behind(stage, proxy, call_timeout_seconds=20)
    order = uuid4()
    await stage.say(RingWanted(order_id=order, plan=("waits",)))
    await eventually(lambda: stage.outside.under_way == 1)
    proxy.cut()
    stage.outside.gate.set()
    await eventually(lambda: outages(logged))
    proxy.restore()
    await eventually(lambda: stage.published(order, kind="answered"))
    await eventually(stage.drained)
    assert stage.outside.book.count("asked") == {f"ring:{order}": 1}


async def test_a_failed_attempt_is_written_down_after_the_outage(stage: Stage, logged: Logged) -> None:
    proxy = await stage.proxy_database()
    await start_behind(stage, proxy, call_timeout_seconds=0.5)
    order = uuid4()
    await stage.say(RingWanted(order_id=order, plan=("hangs_done", "answers")))
    await eventually(lambda: stage.outside.under_way == 1)
    proxy.cut()
    await eventually(lambda: "call_failed" in [line["event"] for line in logged])
    await eventually(lambda: outages(logged))
    proxy.restore()
    await eventually(lambda: stage.published(order, kind="answered"))
    assert stage.outside.book.story(f"ring:{order}") == ["asked", "did", "looked_up"]


async def test_confirmed_facts_are_forgotten_after_the_outage_and_not_published_again(
    stage: Stage, logged: Logged
) -> None:
    proxy = await stage.proxy_database()
    await start_behind(stage, proxy, forget_after_seconds=0.5)
    order = uuid4()
    await stage.say(Bumped(order_id=order))
    await eventually(lambda: stage.published(order))
    proxy.cut()
    await eventually(lambda: outages(logged))
    assert await stage.size("outbox") == 1
    proxy.restore()
    await eventually(stage.drained)
    assert len(stage.published(order)) == 1


async def test_a_service_may_start_before_its_database(stage: Stage, logged: Logged) -> None:
    proxy = await stage.proxy_database()
    proxy.cut()
    order = uuid4()
    await stage.say(Bumped(order_id=order))
    await stage.begin(database_url=proxy.url(stage.database_url))
    await eventually(lambda: proxy.refused >= 5)
    assert outages(logged) == ["outage_began"]
    proxy.restore()
    await eventually(lambda: stage.published(order))
    assert outages(logged) == ["outage_began", "outage_ended"]


async def test_a_database_that_only_reads_is_waited_for(stage: Stage, logged: Logged) -> None:
    """As after a failover, until the standby is promoted: no fact is to blame."""
    await switch_writing(stage, off=True)
    host = await stage.begin()
    await eventually(lambda: outages(logged))
    assert not await is_ready(host)
    assert outages(logged) == ["outage_began"]
    await switch_writing(stage, off=False)
    await eventually(lambda: is_ready(host))


async def test_a_database_that_only_reads_for_a_while_loses_no_fact(stage: Stage, logged: Logged) -> None:
    host = await stage.start()
    await switch_writing(stage, off=True)
    order = uuid4()
    await stage.say(Bumped(order_id=order))
    await eventually(lambda: stage.waiting_in_queue_is(0))
    await eventually(lambda: outages(logged)[-1:] == ["outage_began"])
    assert not await is_ready(host)
    await switch_writing(stage, off=False)
    await eventually(lambda: stage.published(order))
    await eventually(stage.drained)
    assert await stage.count_of(order) == 1
    assert not await stage.dead_letters()


async def switch_writing(stage: Stage, *, off: bool) -> None:
    """Make the database read-only, or not, for every session from now on."""
    name = psycopg.conninfo.conninfo_to_dict(stage.database_url)["dbname"]
    async with await psycopg.AsyncConnection.connect(stage.database_url, autocommit=True) as connection:
        await connection.execute("SET default_transaction_read_only = off")
        value = "on" if off else "off"
        await connection.execute(
            f'ALTER DATABASE "{name}" SET default_transaction_read_only = {value}'.encode()
        )
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


async def test_several_outages_in_a_row_under_load(stage: Stage) -> None:
    proxy = await stage.proxy_database()
    await start_behind(stage, proxy, batch_size=5)
    orders = [uuid4() for _ in range(60)]

    async def tell() -> None:
        for order in orders:
            await stage.say(Bumped(order_id=order), RingWanted(order_id=order, plan=("loses",)))

    telling = asyncio.create_task(tell())
    for share in (0.2, 0.4, 0.6, 0.8):
        await eventually(lambda share=share: len(stage.received) >= share * 60)  # type: ignore[misc]
        proxy.drop_connections()
    await telling
    await eventually(lambda: len(set(stage.published(*orders))) == 60)
    await eventually(lambda: len(set(stage.published(*orders, kind="answered"))) == 60)
    await eventually(stage.drained)
    assert await stage.counts(orders) == dict.fromkeys(orders, 1)
    assert stage.outside.book.count("did") == {f"ring:{order}": 1 for order in orders}


@pytest.mark.parametrize("error", [FileNotFoundError("a file of ours"), TimeoutError(), RecursionError()])
async def test_what_is_no_word_of_the_database_does_not_count_as_its_absence(
    stage: Stage, logged: Logged, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    guilty, innocent = uuid4(), uuid4()

    commit = Batch.commit

    async def commit_badly(batch: Batch, inputs: Sequence[Input]) -> Committed:
        if guilty in [one.order_id for one in inputs]:
            raise error
        return await commit(batch, inputs)

    monkeypatch.setattr(Batch, "commit", commit_badly)
    await stage.start()
    await stage.say(Bumped(order_id=guilty), Bumped(order_id=innocent))
    await eventually(lambda: stage.published(innocent))
    await eventually(lambda: stage.dead_letters_are(1))
    assert outages(logged) == []
