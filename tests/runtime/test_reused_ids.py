"""A message id names one fact: a true repetition is silent, anything else under it is a dead letter."""

from uuid import uuid4

from aio_pika.abc import AbstractIncomingMessage

from events.facts.base import Fact
from events.service import REDRIVE_EXCHANGE
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage, message
from tests.runtime.test_dead_letters import raw
from tests.runtime.toy.facts import Bumped, RingWanted
from tests.runtime.toy.service import TOY


async def says_last(stage: Stage) -> None:
    """What was said before has been handled."""
    last = uuid4()
    await stage.say(Bumped(order_id=last))
    await eventually(lambda: stage.published(last))
    await eventually(stage.drained)


async def only_dead_letter(stage: Stage) -> AbstractIncomingMessage:
    await eventually(lambda: stage.dead_letters_are(1))
    await eventually(stage.drained)
    (dead_letter,) = await stage.dead_letters()
    assert dead_letter.headers["dead_letter_reason"] == "reused_message_id"
    assert dead_letter.headers["dead_letter_attempts"] == 1
    return dead_letter


async def test_another_order_under_a_known_id_is_a_dead_letter_that_names_the_first(stage: Stage) -> None:
    await stage.start()
    first, second, fact_id = uuid4(), uuid4(), uuid4()
    await stage.say(Bumped(order_id=first), fact_id=fact_id)
    await eventually(lambda: stage.published(first))
    await stage.say(Bumped(order_id=second), fact_id=fact_id)
    dead_letter = await only_dead_letter(stage)
    detail = str(dead_letter.headers["dead_letter_detail"])
    assert str(first) in detail
    assert "toy.bumped.v1" in detail
    assert await stage.counts([first, second]) == {first: 1}


async def test_another_fact_or_content_under_a_known_id_is_a_dead_letter(stage: Stage) -> None:
    await stage.start()
    order, fact_id = uuid4(), uuid4()
    await stage.say(Bumped(order_id=order, by=1), fact_id=fact_id)
    await eventually(lambda: stage.published(order))
    others: tuple[Fact, ...] = (Bumped(order_id=order, by=2), RingWanted(order_id=order))
    for other in others:
        await stage.say(other, fact_id=fact_id)
        assert str(order) in str((await only_dead_letter(stage)).headers["dead_letter_detail"])
    assert await stage.count_of(order) == 1
    assert stage.outside.book.entries == []


async def test_of_several_in_one_batch_the_first_counts_and_its_neighbours_too(stage: Stage) -> None:
    await stage.start()
    held, first, second, fact_id = uuid4(), uuid4(), uuid4(), uuid4()
    good = [uuid4() for _ in range(6)]
    neighbours = [message(Bumped(order_id=order), uuid4()) for order in good]
    same_id = [message(Bumped(order_id=order), fact_id) for order in (first, second, first)]
    await stage.say(Bumped(order_id=held))
    await eventually(lambda: stage.published(held))
    async with stage.holding(held):
        await stage.say(Bumped(order_id=held))
        await eventually(stage.blocked)
        await stage.publish(*neighbours[:3], *same_id, *neighbours[3:])
        await eventually(lambda: stage.waiting_in_queue_is(0))
    dead_letter = await only_dead_letter(stage)
    assert dead_letter.correlation_id == str(second)
    orders = [first, second, *good]
    assert await stage.counts(orders) == {first: 1, **dict.fromkeys(good, 1)}
    written = await stage.rows(
        "SELECT DISTINCT xmin::text FROM tallies WHERE order_id = ANY(%(ids)s)", ids=orders
    )
    assert len(written) == 1


async def test_the_same_fact_in_other_bytes_is_a_repetition(stage: Stage) -> None:
    await stage.start()
    order, fact_id = uuid4(), str(uuid4())
    bodies = (
        b'{"order_id": "%s"}',
        b'{"by":1,"order_id":"%s","label":null}',
        b'{"unknown": [1, 2],  "by": 1, "order_id": "%s"}',
    )
    for body in bodies:
        await stage.publish(raw(body % str(order).encode(), message_id=fact_id))
    await says_last(stage)
    assert await stage.count_of(order) == 1
    assert not await stage.dead_letters()


async def test_a_row_that_an_older_release_wrote_takes_everything_for_a_repetition(stage: Stage) -> None:
    """It knows a fact by its id alone, and goes on writing such rows while both run."""
    fact_id = uuid4()
    await stage.rows("INSERT INTO inbox (fact_id) VALUES (%(id)s)", id=fact_id)
    await stage.start()
    order = uuid4()
    await stage.say(Bumped(order_id=order), fact_id=fact_id)
    await says_last(stage)
    assert await stage.count_of(order) is None
    assert not await stage.dead_letters()


async def test_what_a_release_with_other_fields_wrote_is_not_compared(stage: Stage) -> None:
    order, fact_id = uuid4(), uuid4()
    await stage.rows(
        """
        INSERT INTO inbox (fact_id, order_id, wire_name, content)
        VALUES (%(id)s, %(order)s, 'toy.bumped.v1', 1)
        """,
        id=fact_id,
        order=order,
    )
    await stage.start()
    await stage.say(Bumped(order_id=order), fact_id=fact_id)
    await says_last(stage)
    assert not await stage.dead_letters()
    await stage.say(Bumped(order_id=uuid4()), fact_id=fact_id)
    assert str(order) in str((await only_dead_letter(stage)).headers["dead_letter_detail"])


async def test_what_an_older_tracker_redrives_with_fewer_fields_is_a_repetition(stage: Stage) -> None:
    await stage.start()
    order, fact_id = uuid4(), uuid4()
    await stage.say(Bumped(order_id=order, label="new"), fact_id=fact_id)
    await eventually(lambda: stage.published(order))
    redrive = await stage.channel.get_exchange(REDRIVE_EXCHANGE, ensure=False)
    await redrive.publish(message(Bumped(order_id=order), fact_id), TOY.name)
    await says_last(stage)
    assert await stage.count_of(order) == 1
    assert not await stage.dead_letters()
    await redrive.publish(message(Bumped(order_id=uuid4()), fact_id), TOY.name)
    assert str(order) in str((await only_dead_letter(stage)).headers["dead_letter_detail"])
