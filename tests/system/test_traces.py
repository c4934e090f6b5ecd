"""A saga is one trace in a real Jaeger, and a stuck one is found there. Skipped where Jaeger is not."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry.instrumentation.aio_pika import AioPikaInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from compose.demo.shop import Item, open_shop
from compose.local.rig import LocalRig
from tests.jaeger import Jaeger, find_program, running_jaeger
from tests.servers import rig_folder
from tests.system.stage import System, until
from tests.tools import JAEGER, require

SERVICES = {"order_svc", "inventory_svc", "payment_svc", "fulfillment_svc", "notification_svc"}
LAST = "facts,notification.customer_notified.v1 send"
# So that being late is soon over.
SETTINGS = {
    "MURMURATION_STEP_DEADLINE_SECONDS": '{"payment": 2}',
    "MURMURATION_REDRIVE_GRACE_SECONDS": "1",
    "MURMURATION_SERVICE_PATIENCE_SECONDS": '{"payment": 1}',
    "OTEL_BSP_SCHEDULE_DELAY": "200",
}
Spans = list[dict[str, Any]]

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def jaeger() -> Iterator[Jaeger]:
    require(JAEGER)
    program = find_program()
    assert program is not None
    with running_jaeger(program) as running:
        yield running


@pytest.fixture(scope="module")
async def traced(jaeger: Jaeger) -> AsyncIterator[System]:
    """A system of its own that exports every span."""
    if os.environ.get("INFRA") == "docker":
        pytest.skip("the traced system has servers of its own")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MURMURATION_")}
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.otlp_url, "MURMURATION_JAEGER_URL": jaeger.query_url}
    with rig_folder() as folder:
        rig = LocalRig(folder, environment=kept | settings | SETTINGS)
        await asyncio.to_thread(rig.up)
        async with open_shop(rig.addresses) as shop:
            yield System(rig, shop)
        await asyncio.to_thread(rig.down)


async def spans_until(jaeger: Jaeger, trace: str, *last: str) -> Spans:
    """A trace, once these spans are in it."""

    async def found() -> Spans:
        spans = await asyncio.to_thread(jaeger.trace, trace)
        return spans if set(last) <= {span["operationName"] for span in spans} else []

    return await until(found, why=f"{last} never came into the trace {trace}")


def parents_of(span: dict[str, Any]) -> list[str]:
    return [each["spanID"] for each in span["references"] if each["refType"] == "CHILD_OF"]


def tags_of(span: dict[str, Any]) -> dict[str, Any]:
    return {tag["key"]: tag["value"] for tag in span["tags"]}


def demand_connected(spans: Spans, *, roots: int) -> None:
    """Every span hangs from another of the trace, but for the first ones."""
    known = {span["spanID"] for span in spans}
    loose = [span["operationName"] for span in spans if not known & set(parents_of(span))]
    assert len(loose) == roots, loose


async def test_a_completed_saga_is_one_connected_trace_with_all_services_in_it(
    traced: System, jaeger: Jaeger
) -> None:
    sku = await traced.new_sku(10)
    order_id = await traced.shop.place("cust_ada", "tok_ok", Item(sku, 2, 500))
    await traced.settle({order_id: "COMPLETED"})
    saga = await traced.shop.saga(order_id)
    assert saga is not None
    assert saga["trace_url"] == f"{jaeger.query_url}/trace/{saga['trace_id']}"
    spans = await spans_until(jaeger, saga["trace_id"], LAST, "facts,fulfillment.shipment_dispatched.v2 send")
    assert {span["service"] for span in spans} == SERVICES
    demand_connected(spans, roots=1)
    [root] = [span for span in spans if not parents_of(span)]
    assert root["operationName"] == "POST /orders"
    orders = {tags["saga.order_id"] for span in spans if "saga.order_id" in (tags := tags_of(span))}
    assert orders == {str(order_id)}
    named = {span["operationName"] for span in spans}
    assert {"process inventory.stock_reserved.v1", "call capture", "facts,payment.captured.v1 send"} <= named
    assert not any(tags_of(span).get("error") for span in spans)
    [asked] = [span for span in spans if span["operationName"] == "call capture"]
    assert tags_of(asked)["http.response.status_code"] == 201


async def test_an_outside_publishers_trace_goes_on(traced: System, jaeger: Jaeger) -> None:
    """Of one that has nothing but aio-pika and its instrumentation."""
    sku, exporter, provider = await traced.new_sku(10), InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    AioPikaInstrumentor().instrument(tracer_provider=provider)
    try:
        order_id = await traced.shop.publish("cust_ada", "tok_ok", Item(sku, 1, 500))
    finally:
        AioPikaInstrumentor().uninstrument()
    await traced.settle({order_id: "COMPLETED"})
    [outside] = [span.context for span in exporter.get_finished_spans()]
    spans = await spans_until(jaeger, f"{outside.trace_id:032x}", LAST)
    assert {span["service"] for span in spans} == SERVICES
    # Both that got it received and processed it: children of the publisher's span, which is not here.
    demand_connected(spans, roots=4)
    first = [span["operationName"] for span in spans if f"{outside.span_id:016x}" in parents_of(span)]
    assert sorted(first) == ["facts receive"] * 2 + ["process order.created.v2"] * 2


async def test_a_stuck_saga_is_found_by_what_it_waits_for(traced: System, jaeger: Jaeger) -> None:
    sku = await traced.new_sku(10)
    await traced.pause("payment")
    try:
        order_id = await traced.shop.place("cust_ada", "tok_ok", Item(sku, 2, 500))
        wanted = {"error": "true", "saga.waiting_for": "payment", "saga.order_id": str(order_id)}

        async def found() -> Spans:
            spans = await asyncio.to_thread(jaeger.find, "saga_tracker", wanted)
            return spans if "saga time_out" in {span["operationName"] for span in spans} else []

        spans = await until(found, why="the stuck saga is not found by its tags")
        saga = await traced.shop.saga(order_id)
        assert saga is not None
        assert {span["traceID"] for span in spans} == {saga["trace_id"]}
        # Up to the step that is stuck, and not beyond.
        assert "payment_svc" not in {span["service"] for span in spans}
        late = [span for span in spans if tags_of(span).get("error")]
        assert {span["operationName"] for span in late} == {"saga redrive", "saga time_out"}
        assert {tags_of(span)["saga.step"] for span in late} == {"payment:inventory.stock_reserved"}
    finally:
        await traced.resume("payment")
    await traced.settle({order_id: "CANCELLED"})
