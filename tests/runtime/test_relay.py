"""Whatever is committed is published: at once, after a crash, after an outage, and past every bound."""

from collections import Counter
from collections.abc import MutableMapping
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import psycopg

from events.storage.instance import LOCK_CLASS
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage, is_ready
from tests.runtime.toy.decide import Bump
from tests.runtime.toy.facts import Bumped, Counted, RingWanted

Logged = list[MutableMapping[str, Any]]
DEAD, LIVING = 90_001, 90_002


async def leave_behind(stage: Stage, owner: int, *orders: UUID, refusals: int = 0) -> list[str]:
    """Committed and not published: what a killed instance leaves in its outbox.

    What was refused before is due in a day.
    """
    ids = [uuid4() for _ in orders]
    for fact_id, order in zip(ids, orders, strict=True):
        await stage.rows(
            "INSERT INTO outbox (owner, fact_id, wire_name, order_id, body, stated_at, causation_id,"
            " refusals, due_at)"
            " VALUES (%(owner)s, %(fact_id)s, 'toy.counted.v1', %(order)s, %(body)s, %(now)s,"
            " %(causation_id)s, %(refusals)s, CASE WHEN %(refusals)s > 0 THEN now() + interval '1 day' END)",
            owner=owner,
            refusals=refusals,
            fact_id=fact_id,
            order=order,
            body=Counted(order_id=order, count=1).model_dump_json(),
            now=datetime.now(UTC),
            causation_id=uuid4(),
        )
    return [str(fact_id) for fact_id in ids]


async def outbox_is_empty(stage: Stage) -> bool:
    return await stage.size("outbox") == 0


def of(logged: Logged, event: str) -> list[Any]:
    return [line.get("of") or line.get("table") for line in logged if line["event"] == event]


async def test_leftovers_are_published_at_the_start(stage: Stage, logged: Logged) -> None:
    orders = [uuid4() for _ in range(5)]
    left = await leave_behind(stage, DEAD, *orders)
    await stage.start(sweep_seconds=60)
    await eventually(lambda: len(stage.published(*orders)) == 5)
    assert Counter(stage.published(*orders)) == Counter(left)
    await eventually(lambda: outbox_is_empty(stage))
    assert of(logged, "adopted_leftovers") == ["outbox"]


async def test_leftovers_of_an_instance_that_dies_later_are_published_too(stage: Stage) -> None:
    await stage.start()
    orders = [uuid4() for _ in range(5)]
    left = await leave_behind(stage, DEAD, *orders)
    await eventually(lambda: sorted(stage.published(*orders)) == sorted(left))
    await eventually(lambda: outbox_is_empty(stage))


async def test_rows_of_a_living_instance_are_its_own(stage: Stage) -> None:
    await stage.start(sweep_seconds=0.1)
    its_order = uuid4()
    async with await psycopg.AsyncConnection.connect(stage.database_url, autocommit=True) as living:
        await living.execute("SELECT pg_advisory_lock(%s, %s)", (LOCK_CLASS, LIVING))
        its = await leave_behind(stage, LIVING, its_order)
        # By the time two leftovers, one after the other, are adopted, the sweep has seen the living one's.
        for _ in range(2):
            order = uuid4()
            await leave_behind(stage, DEAD, order)
            await eventually(partial(stage.published, order))
        found = await stage.rows("SELECT owner FROM outbox WHERE fact_id = %(id)s", id=its[0])
        assert found == [{"owner": LIVING}]
        assert not stage.published(its_order)
    await eventually(lambda: stage.published(its_order) == its)


async def test_past_its_memory_everything_is_published_and_nothing_twice(stage: Stage) -> None:
    await stage.start(relay_memory=3, relay_in_flight=2, batch_size=20)
    orders = [uuid4() for _ in range(60)]
    await stage.say(*(Bumped(order_id=order) for order in orders))
    await eventually(lambda: len(set(stage.published(*orders))) == 60)
    await eventually(stage.drained)
    assert max(Counter(stage.published(*orders)).values()) == 1


async def test_leftovers_past_its_memory_are_published_too(stage: Stage) -> None:
    orders = [uuid4() for _ in range(25)]
    left = await leave_behind(stage, DEAD, *orders)
    await stage.start(relay_memory=4, relay_in_flight=3)
    await eventually(lambda: len(set(stage.published(*orders))) == 25)
    await eventually(stage.drained)
    assert Counter(stage.published(*orders)) == Counter(left)


async def test_a_steady_stream_is_published_once_each_while_rows_are_forgotten(stage: Stage) -> None:
    host = await stage.start(forget_after_seconds=0.001, relay_memory=10, relay_in_flight=5)
    orders = [uuid4() for _ in range(150)]
    for order in orders:
        await host.ask(Bump(order_id=order))
    await eventually(stage.drained)
    await eventually(lambda: len(set(stage.published(*orders))) == 150)
    assert max(Counter(stage.published(*orders)).values()) == 1


async def test_a_fact_that_nobody_receives_is_kept_and_does_not_hold_up_others(
    stage: Stage, logged: Logged
) -> None:
    await stage.unbind_stream()
    await stage.deafen(Counted)
    await stage.start(relay_in_flight=2, relay_memory=100)
    unheard, received = [uuid4() for _ in range(3)], uuid4()
    await stage.say(*(Bumped(order_id=order) for order in unheard))
    await eventually(lambda: "unroutable_fact" in [line["event"] for line in logged])
    await stage.say(RingWanted(order_id=received))
    await eventually(lambda: stage.published(received, kind="answered"))
    assert await stage.size("outbox") >= 3
    await stage.listen_to(Counted)
    await eventually(lambda: len(set(stage.published(*unheard))) == 3)
    await eventually(stage.drained)
    assert await stage.counts(unheard) == dict.fromkeys(unheard, 1)
    assert len([line for line in logged if line["event"] == "unroutable_fact"]) <= 6


async def test_what_is_accepted_while_the_broker_is_away_is_published_afterwards(
    stage: Stage, logged: Logged
) -> None:
    proxy = await stage.proxy_broker()
    host = await stage.start(broker_url=proxy.url(stage.broker_url), publish_timeout_seconds=1)
    before, during = uuid4(), [uuid4() for _ in range(30)]
    await host.ask(Bump(order_id=before))
    await eventually(lambda: stage.published(before))
    proxy.cut()
    for order in during:
        await host.ask(Bump(order_id=order))
    await eventually(lambda: len(of(logged, "outage_began")) >= 2)
    assert await stage.size("outbox") >= 30
    # Time for many attempts to reconnect.
    await eventually(lambda: proxy.refused >= 20)
    assert Counter(of(logged, "outage_began")) == Counter(["broker, for publishing", "broker, for consuming"])
    assert not of(logged, "outage_ended")
    await stage.say(Bumped(order_id=before))
    proxy.restore()
    await eventually(lambda: len(set(stage.published(*during))) == 30)
    await eventually(lambda: len(stage.published(before)) == 2)
    await eventually(stage.drained)
    assert Counter(of(logged, "outage_ended")) == Counter(["broker, for publishing", "broker, for consuming"])
    assert await stage.counts(during) == dict.fromkeys(during, 1)


async def test_what_was_in_flight_when_the_broker_went_away_is_published_without_another_commit(
    stage: Stage,
) -> None:
    proxy = await stage.proxy_broker()
    host = await stage.start(broker_url=proxy.url(stage.broker_url), publish_timeout_seconds=1)
    orders = [uuid4() for _ in range(10)]
    proxy.freeze()
    for order in orders:
        await host.ask(Bump(order_id=order))
    proxy.cut()
    proxy.thaw()
    proxy.restore()
    await eventually(lambda: len(set(stage.published(*orders))) == 10)
    await eventually(stage.drained)


async def test_a_broker_that_hangs_is_left_for_a_new_connection(stage: Stage) -> None:
    proxy = await stage.proxy_broker()
    host = await stage.start(broker_url=proxy.url(stage.broker_url), publish_timeout_seconds=0.3)
    order = uuid4()
    proxy.freeze()
    await host.ask(Bump(order_id=order))
    await eventually(lambda: proxy.accepted >= 3, why="the relay tries a new connection")
    proxy.thaw()
    await eventually(lambda: stage.published(order))
    await eventually(stage.drained)


async def test_connections_that_die_without_a_word_are_noticed(stage: Stage) -> None:
    proxy = await stage.proxy_broker()
    await stage.start(broker_url=proxy.url(stage.broker_url), broker_heartbeat_seconds=1)
    proxy.strand()
    order = uuid4()
    await stage.say(Bumped(order_id=order))
    await eventually(lambda: stage.published(order))
    await eventually(stage.drained)


async def test_a_broker_that_does_not_answer_at_first_is_asked_again(stage: Stage) -> None:
    proxy = await stage.proxy_broker()
    proxy.freeze()
    host = await stage.begin(broker_url=proxy.url(stage.broker_url), broker_connect_timeout_seconds=0.3)
    await eventually(lambda: proxy.accepted >= 2)
    proxy.strand()
    proxy.thaw()
    await eventually(lambda: is_ready(host))


async def test_a_confirmation_that_got_lost_means_publishing_again_under_the_same_id(stage: Stage) -> None:
    proxy = await stage.proxy_broker()
    host = await stage.start(broker_url=proxy.url(stage.broker_url))
    order = uuid4()
    proxy.lose_answer(b"toy.counted.v1")
    await host.ask(Bump(order_id=order))
    await eventually(lambda: proxy.lost.is_set() and len(stage.published(order)) == 2)
    assert len(set(stage.published(order))) == 1
    await eventually(stage.drained)


async def test_a_service_may_start_before_its_broker(stage: Stage, logged: Logged) -> None:
    proxy = await stage.proxy_broker()
    proxy.cut()
    host = await stage.begin(broker_url=proxy.url(stage.broker_url))
    order = uuid4()
    await eventually(lambda: of(logged, "outage_began"))
    await host.ask(Bump(order_id=order))
    await stage.say(Bumped(order_id=order))
    await eventually(lambda: proxy.refused >= 5)
    proxy.restore()
    await eventually(lambda: len(stage.published(order)) == 2)
    await eventually(stage.drained)
    assert len(of(logged, "outage_began")) == len(of(logged, "outage_ended")) == 2


async def test_more_facts_that_nobody_receives_than_fit_in_memory_are_all_kept(stage: Stage) -> None:
    await stage.unbind_stream()
    await stage.deafen(Counted)
    host = await stage.start(relay_in_flight=2, relay_memory=4)
    orders = [uuid4() for _ in range(15)]
    for order in orders:
        await host.ask(Bump(order_id=order))
    assert await stage.size("outbox") == 15
    await stage.listen_to(Counted)
    await eventually(lambda: len(set(stage.published(*orders))) == 15)
    await eventually(stage.drained)
