"""Acknowledging many deliveries at once never covers one that is not done with."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID, uuid4

from aio_pika.exceptions import ChannelInvalidStateError
from hypothesis import given, settings
from hypothesis import strategies as st

from events.messaging.consumer import Acknowledgements
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage, message
from tests.runtime.toy.facts import Bumped


@dataclass
class BrokersChannel:
    """The broker's side: what it has delivered on a channel and heard nothing more of."""

    unacknowledged: set[int]
    done: set[int] = field(default_factory=set)
    frames: int = 0

    def acknowledged(self, delivery_tag: int, multiple: bool) -> None:
        assert delivery_tag in self.unacknowledged, "the broker closes the channel: unknown delivery tag"
        covered = {tag for tag in self.unacknowledged if tag <= delivery_tag} if multiple else {delivery_tag}
        assert covered <= self.done, "acknowledged before it was done with"
        self.unacknowledged -= covered
        self.frames += 1


@dataclass(frozen=True)
class Delivery:
    on: BrokersChannel
    delivery_tag: int
    closed: bool = False

    @property
    def channel(self) -> BrokersChannel:
        if self.closed:
            raise ChannelInvalidStateError
        return self.on

    async def ack(self, multiple: bool = False) -> None:
        self.on.acknowledged(self.delivery_tag, multiple)


Groups = tuple[int, list[list[int]]]


@st.composite
def _groups(draw: st.DrawFn) -> Groups:
    """So many deliveries, done with in any order and any groups."""
    count = draw(st.integers(1, 40))
    order = draw(st.permutations(range(1, count + 1)))
    cuts = sorted(draw(st.sets(st.integers(1, count - 1)))) if count > 1 else []
    return count, [list(order[a:b]) for a, b in zip([0, *cuts], [*cuts, count], strict=True)]


async def _acknowledge(
    acknowledgements: Acknowledgements, channel: BrokersChannel, group: Sequence[int]
) -> None:
    channel.done |= set(group)
    await acknowledgements.acknowledge([Delivery(channel, tag) for tag in group])


@settings(deadline=None)
@given(_groups())
def test_in_any_order_each_is_acknowledged_at_once_and_none_early(groups: Groups) -> None:
    count, done = groups
    channel = BrokersChannel(set(range(1, count + 1)))

    async def acknowledge_all() -> None:
        acknowledgements = Acknowledgements()
        for group in done:
            await _acknowledge(acknowledgements, channel, group)
            assert not channel.done & channel.unacknowledged

    asyncio.run(acknowledge_all())
    assert not channel.unacknowledged


@settings(deadline=None)
@given(_groups(), _groups(), st.data())
def test_a_new_channel_counts_from_one_again_whatever_was_open_on_the_old_one(
    first: Groups, second: Groups, data: st.DataObject
) -> None:
    old = BrokersChannel(set(range(1, first[0] + 1)))
    new = BrokersChannel(set(range(1, second[0] + 1)))
    done_on_old = data.draw(st.integers(0, len(first[1])))

    async def acknowledge_all() -> None:
        acknowledgements = Acknowledgements()
        for group in first[1][:done_on_old]:
            await _acknowledge(acknowledgements, old, group)
        for group in second[1]:
            await _acknowledge(acknowledgements, new, group)

    asyncio.run(acknowledge_all())
    assert not new.unacknowledged


def test_a_batch_from_before_and_after_a_reconnect_acknowledges_only_the_new_channel() -> None:
    old, new = BrokersChannel({1, 2}), BrokersChannel({1, 2, 3}, done={1, 2})
    batch = [Delivery(old, 1, closed=True), Delivery(old, 2, closed=True), Delivery(new, 1), Delivery(new, 2)]
    asyncio.run(Acknowledgements().acknowledge(batch))
    assert new.unacknowledged == {3}
    assert old.unacknowledged == {1, 2}


def test_one_frame_covers_a_whole_batch() -> None:
    channel = BrokersChannel(set(range(1, 101)))
    asyncio.run(_acknowledge(Acknowledgements(), channel, range(1, 101)))
    assert channel.frames == 1
    assert not channel.unacknowledged


def test_one_that_is_set_aside_keeps_none_behind_it() -> None:
    channel = BrokersChannel(set(range(1, 11)))

    async def acknowledge_all_but_the_third() -> None:
        acknowledgements = Acknowledgements()
        await _acknowledge(acknowledgements, channel, (1, 2, 4, 5))
        await _acknowledge(acknowledgements, channel, range(6, 11))

    asyncio.run(acknowledge_all_but_the_third())
    assert channel.unacknowledged == {3}


async def test_a_connection_lost_during_a_commit_redelivers_and_counts_once(stage: Stage) -> None:
    proxy = await stage.proxy_broker()
    await stage.start(broker_url=proxy.url(stage.broker_url))
    held, orders = uuid4(), [uuid4() for _ in range(20)]
    await stage.say(Bumped(order_id=held))
    await eventually(lambda: stage.published(held))
    async with stage.holding(held):
        await stage.publish(
            message(Bumped(order_id=held), uuid4()),
            *(message(Bumped(order_id=order), uuid4()) for order in orders),
        )
        await eventually(stage.blocked)
        proxy.drop_connections()
        await eventually(lambda: proxy.accepted > 2)
    await eventually(lambda: len(set(stage.published(held, *orders))) == 22)
    await eventually(stage.drained)
    assert await stage.counts(orders) == dict.fromkeys(orders, 1)
    assert await stage.count_of(held) == 2
    assert not await stage.dead_letters()


def _published_of_all(stage: Stage, orders: list[UUID]) -> bool:
    return len(set(stage.published(*orders))) == len(orders)


async def test_after_a_reconnect_new_deliveries_are_acknowledged(stage: Stage) -> None:
    """None is left unacknowledged: nothing comes back once the service stops."""
    proxy = await stage.proxy_broker()
    host = await stage.start(broker_url=proxy.url(stage.broker_url), prefetch=5)
    for _ in range(3):
        orders = [uuid4() for _ in range(12)]
        await stage.say(*(Bumped(order_id=order) for order in orders))
        await eventually(partial(_published_of_all, stage, orders))
        proxy.drop_connections()
    last = uuid4()
    await stage.say(Bumped(order_id=last))
    await eventually(lambda: stage.published(last))
    await stage.stop(host)
    assert await stage.take_back() == []
