"""What the tracker counts is what happened, once and lately; and what it looks up is what is open."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from events.messaging.envelope import Envelope
from saga_tracker.overview import OPEN, STEP_NAMES
from saga_tracker.reading.reader import Progress
from saga_tracker.service import Tracker
from tests.metrics import Numbers, Since
from tests.runtime.eventually import eventually
from tests.runtime.test_metrics import check_names
from tests.tools import PROMETHEUS, needs
from tests.tracker.dead_letters import fail, give_up, unusable
from tests.tracker.facts import PATHS, envelopes
from tests.tracker.watch import FIVE, Watch, get

ENDED = "murmuration_saga_seconds_count"
FACTS = "murmuration_saga_facts_total"


def just_now(names: str, order_id: UUID) -> list[Envelope]:
    """As `envelopes`, the last fact published now."""
    return envelopes(names, order_id, datetime.now(UTC) - timedelta(seconds=len(names.split()) - 1))


async def numbers_of(watch: Watch, tracker: Tracker) -> Numbers:
    answer = await get(watch.app(tracker), "/metrics")
    assert answer.status == 200
    return Numbers(answer.text)


async def now(watch: Watch, tracker: Tracker, holds: Callable[[Numbers], bool]) -> Numbers:
    """The numbers, once this holds of them."""
    found: list[Numbers] = []

    async def look() -> bool:
        found[:] = [await numbers_of(watch, tracker)]
        return holds(found[0])

    await eventually(look)
    return found[0]


async def test_ended_sagas_and_their_steps_are_counted_once(watch: Watch) -> None:
    tracker = await watch.start()
    before = await numbers_of(watch, tracker)
    completed, cancelled = just_now(PATHS["completed"], uuid4()), just_now(PATHS["declined"], uuid4())
    # Everything twice, and in two batches that each end a saga or go on after its end.
    await watch.say(*completed, *cancelled[:-1])
    await watch.sees_facts(len(completed) + len(cancelled) - 1)
    await watch.say(*cancelled, *completed)
    await watch.sees_facts(len(completed) + len(cancelled))
    grown = Since(
        before,
        await now(watch, tracker, lambda found: Since(before, found).of(FACTS) == len(completed + cancelled)),
    )
    assert (grown.of(ENDED, end="COMPLETED"), grown.of(ENDED, end="CANCELLED")) == (1, 1)
    # What the publishers say of the time, six seconds in all, counts nothing: it was read at once.
    assert 0 < grown.of("murmuration_saga_seconds_sum", end="COMPLETED") < 6
    assert grown.of(FACTS, fact="order.created") == 2
    steps = "murmuration_saga_step_seconds"
    assert grown.of(f"{steps}_count", step="payment:inventory.stock_reserved") == 2
    assert 0 < grown.of(f"{steps}_sum", step="notification:order.confirmed") < 2
    assert grown.of("murmuration_saga_step_lateness_seconds_count") == 0


async def test_a_late_step_is_counted_with_how_late_it_was(watch: Watch) -> None:
    late = dict.fromkeys(FIVE, 3_600.0) | {"payment": 0.25}
    tracker = await watch.start(step_deadline_seconds=late, deadline_tick_seconds=3_600)
    before = await numbers_of(watch, tracker)
    facts = just_now(PATHS["completed"], uuid4())
    await watch.say(*facts[:2])
    await watch.sees_facts(2)
    await asyncio.sleep(1.0)  # well past the deadline
    await watch.say(*facts[2:])
    step = "payment:inventory.stock_reserved"
    name = "murmuration_saga_step_lateness_seconds"
    found = await now(watch, tracker, lambda found: Since(before, found).of(f"{name}_count", step=step) == 1)
    assert Since(before, found).of(f"{name}_sum", step=step) > 0.75
    assert Since(before, found).of(f"{name}_count") == 1


async def test_what_was_published_long_ago_is_history(watch: Watch) -> None:
    """As when the view is lost, or made for the first time, and the stream is read from its start."""
    long_ago = datetime.now(UTC) - timedelta(days=1)
    for _ in range(3):
        await watch.say(*envelopes(PATHS["completed"], uuid4(), long_ago))
    tracker = await watch.start()
    before = await numbers_of(watch, tracker)
    await watch.say(*just_now("created", uuid4()))
    await watch.sees_facts(3 * 8 + 1)
    found = await now(watch, tracker, lambda found: found.of("murmuration_stream_lag_messages") == 0)
    assert Since(before, found).of(FACTS) <= 1
    assert Since(before, found).of(ENDED) == 0


@pytest.mark.parametrize("how", ["restart", "rebuild", "read anew"])
async def test_what_is_read_again_is_not_counted_again(watch: Watch, how: str) -> None:
    tracker = await watch.start()
    order = uuid4()
    await watch.say(*just_now(PATHS["completed"], order))
    await watch.sees_facts(8)
    before = await now(watch, tracker, lambda found: found.of("murmuration_sagas_open") == 0)
    if how == "restart":
        await watch.stop(tracker)
        tracker = await watch.start()
    elif how == "rebuild":
        await watch.rebuild()
    else:
        await watch.rows(
            "UPDATE stream_position SET stream_offset = -1, message_id = NULL, reading = reading + 1"
        )
    if how == "rebuild":
        # The rebuild ran in this process, unlike in real life, and yet it must not count.
        assert Since(before, await numbers_of(watch, tracker)).of(FACTS) == 0
    await watch.say(*just_now(PATHS["completed"], order), *just_now(PATHS["completed"], uuid4()))
    await watch.sees_facts(16)
    found = await now(watch, tracker, lambda found: Since(before, found).of(FACTS) == 8)
    assert Since(before, found).of(ENDED, end="COMPLETED") == 1


async def test_open_sagas_are_there_by_state_and_by_what_they_wait_for(watch: Watch) -> None:
    tracker = await watch.start()
    for names in ("created reserved", "created reserved", "created reserved held", PATHS["completed"]):
        await watch.say(*just_now(names, uuid4()))
    await watch.sees_facts(2 + 2 + 3 + 8)
    found = await now(watch, tracker, lambda found: found.of("murmuration_sagas_open") == 3)
    assert found.of("murmuration_sagas_open", state="PENDING_PAYMENT") == 2
    assert found.of("murmuration_sagas_open", state="AWAITING_APPROVAL") == 1
    assert found.of("murmuration_saga_waits", step="payment:inventory.stock_reserved") == 2
    assert found.of("murmuration_saga_waits", step="payment:payment.held") == 1
    assert found.of("murmuration_saga_wait_oldest_seconds", step="payment:inventory.stock_reserved") > 0
    states = {labels["state"] for name, labels in found.series() if name == "murmuration_sagas_open"}
    assert states == set(OPEN)
    steps = {labels["step"] for name, labels in found.series() if name == "murmuration_saga_waits"}
    assert steps == set(STEP_NAMES)


async def test_a_stuck_saga_shows_its_age(watch: Watch) -> None:
    tracker = await watch.start()
    await watch.say(*envelopes("created reserved", uuid4(), datetime.now(UTC) - timedelta(hours=1)))
    await watch.sees_facts(2)
    await watch.read_when_published()
    found = await now(watch, tracker, lambda found: found.of("murmuration_saga_oldest_seconds") > 60)
    assert 3_590 < found.of("murmuration_saga_oldest_seconds", state="PENDING_PAYMENT") < 3_700


async def test_dead_letters_and_cases_are_there_by_service(watch: Watch) -> None:
    tracker = await watch.start()
    await give_up(watch, unusable(), unusable())
    await fail(watch, "cancel_failed", uuid4())
    found = await now(watch, tracker, lambda found: found.of("murmuration_dead_letters_open") == 3)
    assert found.of("murmuration_dead_letters_open", service="payment", kind="unusable") == 2
    assert found.of("murmuration_dead_letters_open", service="fulfillment", kind="case") == 1


async def test_one_of_two_trackers_keeps_the_deadlines(watch: Watch) -> None:
    trackers = [await watch.start(lease_seconds=1.0), await watch.start(lease_seconds=1.0)]
    for tracker in trackers:
        await now(watch, tracker, lambda found: found.of("murmuration_leader_present") == 1)

    # A leader that gets no time on a busy machine may lose the lease; another one takes it soon.
    async def one_keeps() -> bool:
        keeping = [(await numbers_of(watch, tracker)).of("murmuration_leader") for tracker in trackers]
        return sorted(keeping) == [0, 1]

    await eventually(one_keeps)
    # The clock by which deadlines are kept stands still while nobody reads: then nobody keeps them.
    for tracker in trackers:
        await tracker.loops.close(5)
    await now(watch, trackers[0], lambda found: found.of("murmuration_leader_present") == 0)


async def test_a_view_that_is_behind_says_for_how_long(watch: Watch) -> None:
    proxy = await watch.proxy_broker()
    tracker = await watch.start(broker_url=proxy.url(watch.broker_url))
    await now(watch, tracker, lambda found: found.of("murmuration_stream_lag_seconds") == 0)
    proxy.cut()
    found = await now(watch, tracker, lambda found: found.of("murmuration_stream_lag_seconds") > 1)
    assert found.of("murmuration_connected", to="broker") == 0
    proxy.restore()
    await now(watch, tracker, lambda found: found.of("murmuration_stream_lag_seconds") == 0)


def test_a_look_at_the_streams_end_that_is_not_answered_is_not_an_empty_stream() -> None:
    progress = Progress(reading=True)
    assert (progress.lag, progress.at_end) == (0, False)
    progress.looked_at_end(None)
    assert progress.at_end
    progress.stream_offset = 4
    progress.looked_at_end(7)
    progress.looked_at_end(None)
    assert (progress.lag, progress.at_end, progress.behind(2)) == (3, False, 5)
    progress.known_end = None
    progress.looked_at_end(None)
    assert not progress.at_end


async def test_unreadable_messages_are_counted(watch: Watch) -> None:
    tracker = await watch.start()
    before = await numbers_of(watch, tracker)
    await watch.publish_junk()
    name = "murmuration_stream_unreadable_total"
    await now(watch, tracker, lambda found: Since(before, found).of(name) == 1)


async def test_a_million_ended_sagas_cost_nothing(watch: Watch) -> None:
    """Some tens of thousands show it: none of the queries reads them."""
    await watch.rows(
        "INSERT INTO sagas"
        " (order_id, state, since, waits, waiting_for, timed_out, started_at, ended_at, fact_count)"
        " SELECT gen_random_uuid(), 'COMPLETED', now(), '[]', '[]', false, now(), now(), 7"
        " FROM generate_series(1, 30000)"
    )
    await watch.rows("ANALYZE sagas")
    tracker = await watch.start()
    await watch.say(*just_now("created reserved", uuid4()))
    await now(watch, tracker, lambda found: found.of("murmuration_sagas_open") == 1)
    await watch.rows("SELECT pg_stat_reset()")
    await now(watch, tracker, lambda found: found.of("murmuration_sagas_open") == 1)

    async def looked_up() -> int:
        rows = await watch.rows(
            "SELECT seq_scan, idx_scan FROM pg_stat_user_tables WHERE relname = 'sagas' AND idx_scan > 0"
        )
        return len([row for row in rows if row["seq_scan"] == 0])

    await numbers_of(watch, tracker)
    await eventually(looked_up)


@needs(PROMETHEUS)
async def test_names_are_as_prometheus_wants_them(watch: Watch) -> None:
    check_names((await numbers_of(watch, await watch.start())).text)
