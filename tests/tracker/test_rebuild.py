"""A rebuild gives the same view, loses nothing, and disturbs nobody."""

import asyncio
from collections.abc import MutableMapping
from typing import Any
from uuid import uuid4

import aio_pika
import psycopg
import pytest
from psycopg.rows import dict_row

from saga_tracker.reading import repository
from saga_tracker.reading.rebuild import RebuildFailed
from tests.runtime.eventually import eventually
from tests.tracker.facts import PATHS, envelopes
from tests.tracker.watch import Watch, is_ready

UNDATED = (
    b'{"order_id": "%s", "customer": "c", "sku": "a", "quantity": 1, "amount_minor": 1, "payment_token": "t"}'
)

# The method frame by which a batch is settled: basic.ack.
ACKNOWLEDGEMENT = b"\x00\x3c\x00\x50"


async def fill(watch: Watch) -> int:
    """Some of everything: sagas of all kinds, duplicates, undated and unreadable messages. How many facts."""
    for _ in range(3):
        body = UNDATED % str(uuid4()).encode()
        await watch.publish(aio_pika.Message(b"{", message_id=str(uuid4())), "order.created.v1")
        await watch.publish(aio_pika.Message(body, message_id=str(uuid4())), "order.created.v1")
    for path in PATHS.values():
        facts = envelopes(path, uuid4())
        await watch.say(*reversed(facts), facts[1], *facts)
    # Last something new, so that whoever has seen all facts has read all messages.
    await watch.say(*envelopes("created", uuid4()))
    return sum(len(path.split()) for path in PATHS.values()) + 3 + 1


async def test_a_rebuild_gives_the_same_view(watch: Watch) -> None:
    tracker = await watch.start()
    facts = await fill(watch)
    await watch.sees_facts(facts)
    await watch.stop(tracker)
    before = await watch.view()
    rebuilt = await watch.rebuild(batch_size=7, prefetch=20)
    assert await watch.view() == before
    assert len(before["unreadable"]) == rebuilt.unreadable == 3
    assert rebuilt.messages == before["position"][0]["stream_offset"] + 1


async def test_a_rebuild_repairs_a_view_that_was_tampered_with(watch: Watch) -> None:
    await watch.start()
    await watch.sees_facts(await fill(watch))
    before = await watch.view()
    await watch.rows("UPDATE sagas SET state = 'COMPLETED', waits = '[]'")
    await watch.rows("UPDATE saga_facts SET body = '{}', content = 1, stated_by = 'nobody', dated = false")
    await watch.rebuild()
    assert await watch.view() == before
    # What the view does not have any more is read for the first time.
    await watch.rows("DELETE FROM saga_facts WHERE wire_name = 'payment.captured.v1'")
    await watch.rebuild()
    assert timeless(await watch.view()) == timeless(before)


def timeless(view: dict[str, list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """A view without the instants that follow from when facts were read."""
    instants = {"read_at", "since", "waits", "started_at", "ended_at"}
    return [
        [{name: value for name, value in row.items() if name not in instants} for row in rows]
        for rows in view.values()
    ]


async def test_the_tracker_goes_on_behind_a_rebuild(watch: Watch) -> None:
    tracker = await watch.start()
    await watch.sees_facts(await fill(watch))
    seen = await watch.facts_seen()
    stop = asyncio.Event()
    published = 0

    async def keep_talking() -> None:
        nonlocal published
        while not stop.is_set():
            await watch.say(*envelopes(PATHS["completed"], uuid4()))
            published += len(PATHS["completed"].split())

    talking = asyncio.create_task(keep_talking())
    await watch.rebuild()
    await watch.rebuild()
    stop.set()
    await talking
    await watch.sees_facts(seen + published)
    assert await is_ready(tracker)
    before = await watch.view()
    await watch.rebuild()
    assert await watch.view() == before


async def test_until_it_commits_the_old_view_is_served_and_the_tracker_waits(
    watch: Watch, logged: list[MutableMapping[str, Any]]
) -> None:
    await watch.start()
    facts = await fill(watch)
    await watch.sees_facts(facts)
    async with await psycopg.AsyncConnection.connect(watch.database_url, row_factory=dict_row) as rebuilding:
        await repository.drop_view(rebuilding)
        await watch.say(*envelopes("created", uuid4()))
        await eventually(lambda: any(line.get("of") == "the right to write the view" for line in logged))
        assert await watch.facts_seen() == facts
        with pytest.raises(RebuildFailed, match="another rebuild"):
            await watch.rebuild(rebuild_lock_timeout_seconds=0.1)
        await rebuilding.rollback()
    await watch.sees_facts(facts + 1)


async def test_what_the_stream_no_longer_has_is_kept_and_of_ended_sagas_always(watch: Watch) -> None:
    tracker = await watch.start()
    ended, under_way, new = (uuid4() for _ in range(3))
    await watch.say(*envelopes(PATHS["completed"], ended))
    await watch.say(*envelopes("created reserved captured", under_way))
    await watch.sees_facts(11)
    await watch.stop(tracker)
    before = await watch.view()
    await watch.make_stream_anew()
    await watch.say(*envelopes("created", new))
    rebuilt = await watch.rebuild()
    assert (rebuilt.messages, rebuilt.kept) == (1, 11)
    after = await watch.view()
    for rows in ("sagas", "saga_facts"):
        assert [row for row in after[rows] if row["order_id"] != new] == before[rows]
    assert await watch.state_of(new) == "PENDING_INVENTORY"
    assert (await watch.rebuild(forget_missing=True)).kept == 8
    assert await watch.state_of(ended) == "COMPLETED"
    assert await watch.state_of(under_way) is None
    assert await watch.facts_seen() == 9


async def test_a_saga_of_which_the_stream_lost_the_beginning_is_whole_after_a_rebuild(watch: Watch) -> None:
    tracker = await watch.start()
    order = uuid4()
    facts = envelopes(PATHS["completed"], order)
    await watch.say(*facts[:4])
    await watch.sees_facts(4)
    await watch.stop(tracker)
    await watch.make_stream_anew()
    await watch.say(*facts[4:])
    await watch.start(stream_answer_seconds=0.5)
    await watch.sees_facts(8)
    before = await watch.view()
    assert (await watch.rebuild()).kept == 4
    after = await watch.view()
    assert after["sagas"] == before["sagas"]
    assert after["saga_facts"] == before["saga_facts"]


async def test_an_empty_stream_rebuilds_to_an_empty_view(watch: Watch) -> None:
    assert (await watch.rebuild(stream_answer_seconds=0.3)).messages == 0


async def test_a_broker_that_goes_away_during_a_rebuild_is_waited_for(
    watch: Watch, logged: list[MutableMapping[str, Any]]
) -> None:
    tracker = await watch.start()
    await watch.sees_facts(await fill(watch))
    await watch.stop(tracker)
    before = await watch.view()
    proxy = await watch.proxy_broker()
    proxy.lose_answer(ACKNOWLEDGEMENT)
    await watch.rebuild(broker_url=proxy.url(watch.broker_url), batch_size=5, prefetch=20)
    assert proxy.lost.is_set()
    assert [line["event"] for line in logged if "outage" in line["event"]] == ["outage_began", "outage_ended"]
    assert await watch.view() == before


async def test_without_its_database_a_rebuild_fails_and_says_so(watch: Watch) -> None:
    proxy = await watch.proxy_database()
    proxy.cut()
    with pytest.raises(RebuildFailed, match="database is away"):
        await watch.rebuild(database_url=proxy.url(watch.database_url))
