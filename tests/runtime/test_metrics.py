"""What a service counts is what happened, and its series are few and well named."""

import re
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import uuid4

import aio_pika
import pytest
from aiohttp import ClientSession

from events.outbound.circuit import CircuitBreaker
from events.runtime.service_runtime import ServiceRuntime
from events.telemetry import metrics
from events.telemetry.metrics import page
from tests.metrics import Numbers, Since
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage
from tests.runtime.toy.facts import Bumped, Poisoned, RingWanted
from tests.tools import PROMETHEUS, needs

Scrape = Callable[[], Awaitable[Numbers]]


@pytest.fixture
async def http() -> AsyncIterator[ClientSession]:
    async with ClientSession() as session:
        yield session


async def scraper(stage: Stage, http: ClientSession, host: ServiceRuntime) -> tuple[str, Scrape]:
    """The base URL of a running toy, and how to ask it for its numbers."""
    url = await stage.serve(host)

    async def scrape() -> Numbers:
        async with http.get(f"{url}/metrics") as answer:
            assert answer.status == 200
            assert answer.content_type == "text/plain"
            return Numbers(await answer.text())

    return url, scrape


async def test_batches_duplicates_and_confirms_are_counted(stage: Stage, http: ClientSession) -> None:
    _, scrape = await scraper(stage, http, await stage.start())
    before = await scrape()
    order, number = uuid4(), uuid4()
    for _ in range(3):
        await stage.say(Bumped(order_id=order), fact_id=number)
    await eventually(stage.drained)
    grown = Since(before, await scrape())
    assert grown.of("murmuration_batch_size_sum") == 3
    assert 1 <= grown.of("murmuration_batch_size_count") <= 3
    transactions = grown.of("murmuration_batch_transaction_seconds_count")
    assert transactions == grown.of("murmuration_batch_size_count")
    assert grown.of("murmuration_inbox_duplicates_total") == 2
    assert grown.of("murmuration_publish_confirm_seconds_count", fact="toy.counted.v1") == 1


async def test_retries_and_dead_letters_are_counted_by_reason(stage: Stage, http: ClientSession) -> None:
    _, scrape = await scraper(stage, http, await stage.start())
    before = await scrape()
    await stage.say(Poisoned(order_id=uuid4(), how="decide"), Poisoned(order_id=uuid4(), how="store"))
    await stage.publish(aio_pika.Message(b"?", message_id=str(uuid4())), routing_key="toy.bumped.v1")
    await eventually(lambda: stage.dead_letters_are(3))
    grown = Since(before, await scrape())
    assert grown.of("murmuration_dead_letters_total") == 3
    assert grown.of("murmuration_dead_letters_total", reason="bad_body") == 1
    assert grown.of("murmuration_dead_letters_total", reason="CheckViolation") == 1
    assert grown.of("murmuration_retries_total") == 2 * len(stage.retry_delays_seconds)
    assert grown.of("murmuration_dead_letters_total", reason=metrics.OTHER) == 0


def test_a_reason_that_nobody_knows_is_no_new_series() -> None:
    before = Numbers(_printed())
    metrics.message_failed(f"Error{uuid4().hex}", dead=True)
    metrics.request_answered(uuid4().hex, "/x", 200, time.perf_counter())
    grown = Since(before, Numbers(_printed()))
    assert grown.of("murmuration_dead_letters_total", reason=metrics.OTHER) == 1
    assert grown.of("murmuration_http_request_seconds_count", method=metrics.OTHER) == 1


async def test_attempts_of_calls_are_counted_by_outcome(stage: Stage, http: ClientSession) -> None:
    _, scrape = await scraper(stage, http, await stage.start(call_attempts=2))
    before = await scrape()
    await stage.say(
        RingWanted(order_id=uuid4(), plan=("fails", "answers")),
        RingWanted(order_id=uuid4(), plan=("fails",)),
    )
    await eventually(stage.drained)
    grown = Since(before, await scrape())
    attempts = "murmuration_call_attempt_seconds_count"
    assert grown.of(attempts, call="ring", outcome="Rang") == 1
    assert grown.of(attempts, call="ring", outcome=metrics.FAILED) == 1 + 2
    assert grown.of(attempts, call="ring", outcome="GaveUp") == 1


async def test_what_waits_is_there_with_its_age(stage: Stage, http: ClientSession) -> None:
    _, scrape = await scraper(stage, http, await stage.start())

    async def waiting(name: str) -> bool:
        numbers = await scrape()
        return (
            numbers[f"murmuration_{name}_backlog"] == 1 and numbers[f"murmuration_{name}_oldest_seconds"] > 1
        )

    async def nothing_waits() -> bool:
        numbers = await scrape()
        return not any(numbers[f"murmuration_{name}_backlog"] for name in ("call", "outbox"))

    await stage.say(RingWanted(order_id=uuid4(), plan=("waits",)))
    await eventually(lambda: waiting("call"))
    stage.outside.gate.set()
    await eventually(nothing_waits)
    # Left behind by an instance that lives and does not publish: only the table knows of it.
    await stage.rows(
        "INSERT INTO outbox (fact_id, owner, wire_name, order_id, body, stated_at)"
        " SELECT gen_random_uuid(), owner, 'toy.counted.v1', gen_random_uuid(), '{}', now() - interval '1 h'"
        " FROM (SELECT last_value::int AS owner FROM instance_ids) AS mine"
    )
    await eventually(lambda: waiting("outbox"))


async def test_a_database_that_is_away_costs_its_gauges_and_nothing_else(
    stage: Stage, http: ClientSession
) -> None:
    proxy = await stage.proxy_database()
    host = await stage.start(database_url=proxy.url(stage.database_url), database_timeout_seconds=0.5)
    _, scrape = await scraper(stage, http, host)
    assert (await scrape()).of("murmuration_connected", to="database") == 1
    proxy.cut()

    async def away() -> bool:
        numbers = await scrape()
        return not numbers.of("murmuration_connected", to="database")

    await eventually(away)
    numbers = await scrape()
    assert not numbers.has("murmuration_outbox_backlog")
    assert numbers.of("murmuration_connected", to="broker") == 1
    assert numbers.has("murmuration_batch_size_count")
    proxy.restore()
    await eventually(lambda: scrape_has(scrape, "murmuration_outbox_backlog"))


async def scrape_has(scrape: Scrape, name: str) -> bool:
    return (await scrape()).has(name)


async def test_requests_are_measured_by_route_and_class_of_status(stage: Stage, http: ClientSession) -> None:
    url, scrape = await scraper(stage, http, await stage.start())
    before = await scrape()
    for path, body in ((f"/bumps/{uuid4()}", {}), (f"/bumps/{uuid4()}", {"by": 0}), ("/bumps/seven", {})):
        async with http.post(url + path, json=body, headers={"Connection": "close"}):
            pass
    async with http.get(f"{url}/nowhere/{uuid4()}"):
        pass
    grown = Since(before, await scrape())
    count = "murmuration_http_request_seconds_count"
    for status in ("2xx", "4xx", "5xx"):
        assert grown.of(count, method="POST", route="/bumps/{order_id}", status=status) == 1
    assert grown.of(count, method="GET", route="unknown", status="4xx") == 1


async def test_redeliveries_are_counted(stage: Stage, http: ClientSession) -> None:
    proxy = await stage.proxy_broker()
    _, scrape = await scraper(stage, http, await stage.start(broker_url=proxy.url(stage.broker_url)))
    order = uuid4()
    await stage.say(Bumped(order_id=order))
    await eventually(lambda: stage.published(order))
    before = await scrape()
    async with stage.holding(order):
        await stage.say(Bumped(order_id=order))
        await eventually(stage.blocked)
        proxy.drop_connections()

        async def redelivered() -> bool:
            return Since(before, await scrape()).of("murmuration_redeliveries_total") == 1

        await eventually(redelivered)


OPENS_AT_ONCE = {"circuit_opens_after": 1, "circuit_opens_after_seconds": 0, "circuit_open_seconds": 0.001}


async def test_a_circuit_is_open_or_not(stage: Stage) -> None:
    breaker = CircuitBreaker("godot", stage.settings(**OPENS_AT_ONCE))
    assert Numbers(_printed()).has("murmuration_circuit_open")

    def is_open() -> float:
        return Numbers(_printed()).of("murmuration_circuit_open", party="godot")

    with breaker.request():
        pass
    assert is_open() == 1

    def comes_back() -> bool:
        with breaker.request() as request:
            request.alive = True
        return is_open() == 0

    await eventually(comes_back)


async def test_two_instances_in_one_process_answer_each_for_itself(stage: Stage, http: ClientSession) -> None:
    proxy = await stage.proxy_broker()
    _, scrape_one = await scraper(stage, http, await stage.start())
    _, scrape_other = await scraper(stage, http, await stage.start(broker_url=proxy.url(stage.broker_url)))
    proxy.cut()

    async def cut_off() -> bool:
        return not (await scrape_other()).of("murmuration_connected", to="broker")

    await eventually(cut_off)
    assert (await scrape_one()).of("murmuration_connected", to="broker") == 1


async def test_more_orders_make_no_more_series(stage: Stage, http: ClientSession) -> None:
    url, scrape = await scraper(stage, http, await stage.start())

    async def series_after(orders: int) -> set[tuple[str, ...]]:
        for order in [uuid4() for _ in range(orders)]:
            await stage.say(Bumped(order_id=order, label=f"label-{order}"), RingWanted(order_id=order))
            async with http.post(f"{url}/bumps/{order}", json={}), http.get(f"{url}/tallies/{order}"):
                pass
        await eventually(stage.drained)
        return {(name, *labels, *labels.values()) for name, labels in (await scrape()).series()}

    few = await series_after(2)
    many = await series_after(20)
    assert many == few
    assert not [series for series in many if any(map(_is_an_id, series))]
    # These are the scrape's.
    assert not [series for series in many if {"instance", "job"} & {*series}]


@needs(PROMETHEUS)
async def test_names_are_as_prometheus_wants_them(stage: Stage, http: ClientSession) -> None:
    metrics.say_what_runs()
    _, scrape = await scraper(stage, http, await stage.start())
    numbers = await scrape()
    check_names(numbers.text)


def check_names(text: str) -> None:
    """Fails with what promtool says of these metrics."""
    ours = "".join(line for line in text.splitlines(keepends=True) if "murmuration_" in line)
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=ours.encode(), capture_output=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, b"")


def _printed() -> str:
    return bytes(page().body).decode()


def _is_an_id(value: str) -> bool:
    return re.search(r"[0-9a-f]{8}-[0-9a-f]{4}", value) is not None
