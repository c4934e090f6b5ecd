"""Acknowledging many deliveries at once never covers one that is not settled."""

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast
from uuid import UUID, uuid4

from hypothesis import given, settings
from hypothesis import strategies as st

from events.messaging.consumer import Acknowledgements
from events.messaging.deliveries import Delivery as Delivered
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage, message
from tests.runtime.toy.facts import Bumped


@dataclass
class BrokersChannel:
    """The broker's side: what it has delivered on a channel and not heard of again."""

    unacknowledged: set[int]
    settled: set[int] = field(default_factory=set)
    frames: int = 0

    async def basic_ack(self, delivery_tag: int, multiple: bool) -> None:
        assert multiple
        assert delivery_tag in self.unacknowledged, "the broker closes the channel: unknown delivery tag"
        covered = {tag for tag in self.unacknowledged if tag <= delivery_tag}
        assert covered <= self.settled, "acknowledged before it was settled"
        self.unacknowledged -= covered
        self.frames += 1


@dataclass(frozen=True)
class Delivery:
    channel: BrokersChannel
    delivery_tag: int


@st.composite
def _settling(draw: st.DrawFn) -> tuple[int, list[list[int]], set[int]]:
    """So many deliveries, settled in any order and any groups, some of them by giving them back."""
    count = draw(st.integers(1, 40))
    order = draw(st.permutations(range(1, count + 1)))
    cuts = sorted(draw(st.sets(st.integers(1, count - 1)))) if count > 1 else []
    groups = [list(order[a:b]) for a, b in zip([0, *cuts], [*cuts, count], strict=True)]
    return count, groups, draw(st.sets(st.sampled_from(order)))


async def _settle(
    acknowledgements: Acknowledgements, channel: BrokersChannel, group: list[int], returned: set[int]
) -> None:
    back = [tag for tag in group if tag in returned]
    channel.unacknowledged -= set(back)
    channel.settled |= set(group)
    await acknowledgements.settle(
        cast("list[Delivered]", [Delivery(channel, tag) for tag in group]),
        cast("list[Delivered]", [Delivery(channel, tag) for tag in back]),
    )


@settings(deadline=None)
@given(_settling())
def test_in_any_order_none_is_acknowledged_early_and_all_are_in_the_end(
    settling: tuple[int, list[list[int]], set[int]],
) -> None:
    count, groups, returned = settling
    channel = BrokersChannel(set(range(1, count + 1)))

    async def settle_all() -> None:
        acknowledgements = Acknowledgements()
        for group in groups:
            await _settle(acknowledgements, channel, group, returned)

    asyncio.run(settle_all())
    assert not channel.unacknowledged


@settings(deadline=None)
@given(_settling(), _settling(), st.data())
def test_a_new_channel_counts_from_one_again_whatever_was_open_on_the_old_one(
    first: tuple[int, list[list[int]], set[int]],
    second: tuple[int, list[list[int]], set[int]],
    data: st.DataObject,
) -> None:
    old = BrokersChannel(set(range(1, first[0] + 1)))
    new = BrokersChannel(set(range(1, second[0] + 1)))
    settled_on_old = data.draw(st.integers(0, len(first[1])))

    async def settle_all() -> None:
        acknowledgements = Acknowledgements()
        for group in first[1][:settled_on_old]:
            await _settle(acknowledgements, old, group, first[2])
        for group in second[1]:
            await _settle(acknowledgements, new, group, second[2])

    asyncio.run(settle_all())
    assert not new.unacknowledged


def test_a_batch_from_before_and_after_a_reconnect_acknowledges_only_the_new_channel() -> None:
    old, new = BrokersChannel({1, 2}), BrokersChannel({1, 2, 3}, settled={1, 2})
    batch: list[Any] = [Delivery(old, 1), Delivery(old, 2), Delivery(new, 1), Delivery(new, 2)]
    asyncio.run(Acknowledgements().settle(batch))
    assert new.unacknowledged == {3}
    assert old.unacknowledged == {1, 2}


def test_one_frame_covers_a_whole_batch() -> None:
    channel = BrokersChannel(set(range(1, 101)))
    asyncio.run(_settle(Acknowledgements(), channel, list(range(1, 101)), set()))
    assert channel.frames == 1
    assert not channel.unacknowledged


async def test_a_connection_lost_during_a_commit_redelivers_and_counts_once(stage: Stage) -> None:
    proxy = await stage.proxy_broker()
    await stage.start(broker_url=proxy.url(stage.broker_url))
    held, orders = uuid4(), [uuid4() for _ in range(20)]
    await stage.say(Bumped(order_id=held))
    await eventually(lambda: stage.stated(held))
    async with stage.holding(held):
        await stage.publish(
            message(Bumped(order_id=held), uuid4()),
            *(message(Bumped(order_id=order), uuid4()) for order in orders),
        )
        await eventually(stage.blocked)
        proxy.drop_connections()
        await eventually(lambda: proxy.accepted > 2)
    await eventually(lambda: len(set(stage.stated(held, *orders))) == 22)
    await eventually(stage.drained)
    assert await stage.counts(orders) == dict.fromkeys(orders, 1)
    assert await stage.count_of(held) == 2
    assert not await stage.dead_letters()


def _stated_of_all(stage: Stage, orders: list[UUID]) -> bool:
    return len(set(stage.stated(*orders))) == len(orders)


async def test_after_a_reconnect_new_deliveries_are_acknowledged(stage: Stage) -> None:
    """None is left unacknowledged: nothing comes back once the service stops."""
    proxy = await stage.proxy_broker()
    host = await stage.start(broker_url=proxy.url(stage.broker_url), prefetch=5)
    for _ in range(3):
        orders = [uuid4() for _ in range(12)]
        await stage.say(*(Bumped(order_id=order) for order in orders))
        await eventually(partial(_stated_of_all, stage, orders))
        proxy.drop_connections()
    last = uuid4()
    await stage.say(Bumped(order_id=last))
    await eventually(lambda: stage.stated(last))
    await stage.stop(host)
    assert await stage.take_back() == []
