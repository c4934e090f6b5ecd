"""A batch commits together, counts every fact once, and does not wait for company."""

import asyncio
import time
from uuid import uuid4

from yarl import URL

from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage, message
from tests.runtime.toy.decide import Bump
from tests.runtime.toy.facts import Bumped

PROMPT_SECONDS = 0.5
LONG_SECONDS = 0.5


async def test_a_fact_takes_effect_and_what_it_leads_to_is_published(stage: Stage) -> None:
    await stage.start()
    order = uuid4()
    await stage.say(Bumped(order_id=order, by=3))
    await eventually(lambda: stage.published(order))
    assert await stage.count_of(order) == 3
    await eventually(stage.drained)


async def test_a_lone_fact_does_not_wait_for_a_batch_to_fill(stage: Stage) -> None:
    await stage.start(batch_size=1_000, prefetch=1_000)
    warm_up = uuid4()
    await stage.say(Bumped(order_id=warm_up))
    await eventually(lambda: stage.published(warm_up))

    async def is_prompt() -> bool:
        await stage.say(Bumped(order_id=(order := uuid4())))
        began = time.monotonic()
        await eventually(lambda: stage.published(order))
        return time.monotonic() - began < PROMPT_SECONDS

    # Not each is, on a machine that many share: but none would be if it waited.
    await eventually(is_prompt)


async def test_what_arrived_during_a_commit_is_one_transaction(stage: Stage) -> None:
    await stage.start()
    held, orders = uuid4(), [uuid4() for _ in range(40)]
    await stage.say(Bumped(order_id=held))
    await eventually(lambda: stage.published(held))
    async with stage.holding(held):
        await stage.say(Bumped(order_id=held))
        await eventually(stage.blocked)
        await stage.say(*(Bumped(order_id=order) for order in orders))
        await eventually(lambda: stage.waiting_in_queue_is(0))
    await eventually(lambda: len(stage.published(*orders)) == len(orders))
    written = await stage.rows(
        "SELECT DISTINCT xmin::text FROM tallies WHERE order_id = ANY(%(ids)s)", ids=orders
    )
    assert len(written) == 1


async def test_what_arrives_one_by_one_after_a_long_commit_is_one_transaction(stage: Stage) -> None:
    await stage.start(rest_share=8, rest_cap_seconds=5, lock_wait_seconds=5)
    held, orders = uuid4(), [uuid4() for _ in range(5)]
    await stage.say(Bumped(order_id=held))
    await eventually(lambda: stage.published(held))
    async with stage.holding(held):
        await stage.say(Bumped(order_id=held))
        await eventually(stage.blocked)
        began = time.monotonic()
        await eventually(lambda: time.monotonic() - began > LONG_SECONDS)
    for order in orders:
        await stage.say(Bumped(order_id=order))
        await eventually(lambda: stage.waiting_in_queue_is(0))
    await eventually(lambda: len(stage.published(*orders)) == len(orders))
    written = await stage.rows(
        "SELECT DISTINCT xmin::text FROM tallies WHERE order_id = ANY(%(ids)s)", ids=orders
    )
    assert len(written) == 1


async def test_a_batch_has_a_bound(stage: Stage) -> None:
    orders = [uuid4() for _ in range(10)]
    await stage.say(*(Bumped(order_id=order) for order in orders))
    await stage.start(batch_size=4)
    await eventually(lambda: len(stage.published(*orders)) == len(orders))
    written = await stage.rows("SELECT count(*) AS size FROM tallies GROUP BY xmin::text")
    assert max(row["size"] for row in written) <= 4


async def test_a_fact_delivered_twice_in_one_batch_counts_once(stage: Stage) -> None:
    order, fact_id = uuid4(), uuid4()
    twice = [message(Bumped(order_id=order), fact_id) for _ in range(2)]
    await stage.publish(*twice)
    await stage.start()
    await eventually(stage.drained)
    assert await stage.count_of(order) == 1
    assert await stage.size("inbox") == 1
    assert len(stage.published(order)) == 1
    assert not await stage.dead_letters()


async def test_a_fact_delivered_again_later_counts_once(stage: Stage) -> None:
    await stage.start()
    order, fact_id = uuid4(), uuid4()
    await stage.say(Bumped(order_id=order), fact_id=fact_id)
    await eventually(lambda: stage.published(order))
    await stage.say(Bumped(order_id=order), fact_id=fact_id)
    last = uuid4()
    await stage.say(Bumped(order_id=last))
    await eventually(lambda: stage.published(last))
    await eventually(stage.drained)
    assert await stage.count_of(order) == 1
    assert len(stage.published(order)) == 1
    assert not await stage.dead_letters()


async def test_many_facts_about_one_order_in_one_batch_all_count(stage: Stage) -> None:
    order = uuid4()
    await stage.say(*(Bumped(order_id=order) for _ in range(50)))
    await stage.start()
    await eventually(lambda: len(stage.published(order)) == 50)
    assert await stage.count_of(order) == 50


async def test_facts_and_commands_share_batches_without_losing_any(stage: Stage) -> None:
    host = await stage.start()
    order = uuid4()
    answers, _ = await asyncio.gather(
        asyncio.gather(*(host.ask(Bump(order_id=order)) for _ in range(30))),
        stage.say(*(Bumped(order_id=order) for _ in range(30))),
    )
    await eventually(lambda: len(stage.published(order)) == 60)
    assert await stage.count_of(order) == 60
    assert len({answer.count for answer in answers}) == 30  # each saw a state of its own


async def test_a_published_fact_says_what_it_descends_from(stage: Stage) -> None:
    await stage.start()
    order = uuid4()
    (fact_id,) = await stage.say(Bumped(order_id=order))
    await eventually(lambda: stage.published(order))
    sent = stage.received[0]
    assert sent.headers["causation_id"] == str(fact_id)
    assert sent.app_id == "toy"
    assert sent.correlation_id == str(order)
    assert sent.delivery_mode == 2


async def test_what_comes_from_its_own_outbox_has_taken_effect_before(stage: Stage) -> None:
    """Such as `order.created`, which order_svc publishes itself or receives from an outside publisher."""
    await stage.start()
    own, foreign, later = (uuid4() for _ in range(3))
    for order, user in ((own, URL(stage.broker_url).user), (foreign, None)):
        sent = message(Bumped(order_id=order), uuid4())
        sent.app_id, sent.user_id = "toy", user
        await stage.publish(sent)
    await stage.say(Bumped(order_id=later))
    await eventually(lambda: stage.published(foreign) and stage.published(later))
    assert await stage.counts([own, foreign, later]) == {foreign: 1, later: 1}
    assert await stage.size("inbox") == 2
    await eventually(stage.drained)


async def test_the_broker_vouches_for_what_the_relay_publishes(stage: Stage) -> None:
    host = await stage.start()
    await host.ask(Bump(order_id=uuid4()))
    await eventually(lambda: stage.received)
    assert stage.received[0].user_id == URL(stage.broker_url).user
    assert stage.received[0].app_id == "toy"
