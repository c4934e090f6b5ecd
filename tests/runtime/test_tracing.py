"""What an order goes through is one trace: through queue, batch, outbox and call, and after a failure."""

import socket
import time
from collections.abc import Iterator, MutableMapping
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import aio_pika
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from events.facts.base import Fact
from events.telemetry import tracing
from events.telemetry.tracing import begin_trace, trace_id
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage, message
from tests.runtime.toy.decide import Bump
from tests.runtime.toy.facts import Bumped, Poisoned, RingWanted

Logged = list[MutableMapping[str, Any]]
PROMPTLY_SECONDS = 20.0


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    """Where this process's spans go during the test."""
    exporter = InMemorySpanExporter()
    tracing.start_tracing("toy", exporter)
    yield exporter
    tracing.stop_tracing()


def spans_of(exporter: InMemorySpanExporter, traceparent: str | None = None) -> dict[str, ReadableSpan]:
    """What was exported of a trace, or of all, by name."""
    tracing.flush_traces()
    found = exporter.get_finished_spans()
    return {
        span.name: span
        for span in found
        if traceparent is None or f"{span.context.trace_id:032x}" == trace_id(traceparent)
    }


async def say(stage: Stage, fact: Fact, traceparent: str | None) -> None:
    """As a publisher that has its own idea of the trace, or none."""
    sent = message(fact, uuid4())
    if traceparent is not None:
        sent.headers["traceparent"] = traceparent
    with suppress_instrumentation():
        await stage.publish(sent)


def follows(child: ReadableSpan, parent: ReadableSpan) -> bool:
    return child.parent is not None and child.parent.span_id == parent.context.span_id


def received_about(stage: Stage, order: UUID) -> aio_pika.abc.AbstractIncomingMessage:
    return next(one for one in stage.received if one.correlation_id == str(order))


def has_published(stage: Stage, order: UUID) -> bool:
    return bool(stage.published(order))


async def test_a_fact_is_a_child_of_its_publisher_and_linked_to_its_batch(
    stage: Stage, exported: InMemorySpanExporter
) -> None:
    await stage.start()
    order, outside = uuid4(), begin_trace()
    await say(stage, Bumped(order_id=order), outside)
    await eventually(lambda: stage.published(order))
    await eventually(lambda: "facts,toy.counted.v1 send" in spans_of(exported, outside))
    spans = spans_of(exported, outside)
    process, publish = spans["process toy.bumped.v1"], spans["facts,toy.counted.v1 send"]
    assert process.parent is not None
    assert f"{process.parent.span_id:016x}" == outside.split("-")[2]
    assert follows(publish, process)
    assert (process.kind, publish.kind) == (SpanKind.CONSUMER, SpanKind.PRODUCER)
    assert process.attributes is not None
    assert process.attributes["saga.order_id"] == str(order)
    assert process.attributes["saga.step"] == "toy:toy.bumped"
    assert process.attributes["messaging.system"] == "rabbitmq"
    [batch] = [span for name, span in spans_of(exported).items() if name == "commit batch of toy"]
    [link] = process.links
    assert link.context.span_id == batch.context.span_id
    # Whoever receives the fact goes on from where it was published.
    assert str(received_about(stage, order).headers["traceparent"]).split("-")[1:3] == [
        f"{publish.context.trace_id:032x}",
        f"{publish.context.span_id:016x}",
    ]


async def test_every_attempt_of_a_call_is_in_the_trace_and_a_failed_one_is_an_error(
    stage: Stage, exported: InMemorySpanExporter
) -> None:
    await stage.start()
    order, outside = uuid4(), begin_trace()
    await say(stage, RingWanted(order_id=order, plan=("fails", "answers")), outside)
    await eventually(lambda: "facts,toy.answered.v1 send" in spans_of(exported, outside))
    attempts = [span for span in exported.get_finished_spans() if span.name == "call ring"]
    assert [span.status.status_code for span in attempts] == [StatusCode.ERROR, StatusCode.UNSET]
    assert [span.attributes and span.attributes["saga.attempt"] for span in attempts] == [1, 2]
    spans = spans_of(exported, outside)
    assert all(follows(attempt, spans["process toy.ring_wanted.v1"]) for attempt in attempts)
    assert follows(spans["decide Rang"], attempts[-1])
    assert follows(spans["facts,toy.answered.v1 send"], spans["decide Rang"])


async def test_a_fact_that_is_late_for_good_ends_its_trace_with_an_error(
    stage: Stage, exported: InMemorySpanExporter
) -> None:
    await stage.start()
    order, outside = uuid4(), begin_trace()
    await say(stage, Poisoned(order_id=order, how="decide"), outside)
    await eventually(lambda: "dead letter toy.poisoned.v1" in spans_of(exported, outside))
    spans = spans_of(exported, outside)
    dead_letter = spans["dead letter toy.poisoned.v1"]
    assert dead_letter.status.status_code is StatusCode.ERROR
    assert dead_letter.attributes is not None
    assert dead_letter.attributes["saga.waiting_for"] == "toy"
    assert dead_letter.attributes["saga.step"] == "toy:toy.poisoned"
    assert spans["process toy.poisoned.v1"].status.status_code is StatusCode.ERROR
    assert spans["process toy.poisoned.v1"].attributes is not None
    assert spans["process toy.poisoned.v1"].attributes["saga.attempt"] == 4
    assert "retry toy.poisoned.v1 later" in spans


async def test_the_trace_goes_on_after_a_crash(stage: Stage, exported: InMemorySpanExporter) -> None:
    """The outbox row carries it: what a dead instance left is published as a child of what it received."""
    outside = begin_trace()
    await stage.rows(
        "INSERT INTO outbox (fact_id, owner, wire_name, order_id, body, stated_at, traceparent) VALUES"
        " (%(id)s, 99, 'toy.counted.v1', %(order)s, '{}', now(), %(traceparent)s)",
        id=uuid4(),
        order=(order := uuid4()),
        traceparent=outside,
    )
    await stage.start()
    await eventually(lambda: stage.published(order))
    await eventually(lambda: "facts,toy.counted.v1 send" in spans_of(exported, outside))


async def test_what_is_not_sampled_makes_no_span_and_keeps_its_trace(
    stage: Stage, exported: InMemorySpanExporter
) -> None:
    await stage.start()
    order, outside = uuid4(), begin_trace()[:-2] + "00"
    await say(stage, RingWanted(order_id=order), outside)
    await eventually(lambda: stage.published(order, kind="answered"))
    assert received_about(stage, order).headers["traceparent"] == outside
    assert not spans_of(exported)


async def test_a_trace_that_begins_here_is_sampled_as_configured(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And that is settled for everybody whom it reaches."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    tracing.start_tracing("toy", exporter := InMemorySpanExporter())
    try:
        await stage.start()
        await say(stage, Bumped(order_id=(order := uuid4())), None)
        await eventually(partial(has_published, stage, order))
        traceparent = str(received_about(stage, order).headers["traceparent"])
        assert trace_id(traceparent)
        assert traceparent.endswith("-00")
        assert not [name for name in spans_of(exporter) if name.startswith(("process", "facts", "commit"))]
    finally:
        tracing.stop_tracing()


async def test_without_a_collector_the_trace_is_passed_on(stage: Stage) -> None:
    await stage.start()
    for outside in (begin_trace(), None, "00-nonsense"):
        order = uuid4()
        await say(stage, Bumped(order_id=order), outside)
        await eventually(partial(has_published, stage, order))
        passed_on = str(received_about(stage, order).headers["traceparent"])
        assert passed_on == outside if outside and trace_id(outside) else trace_id(passed_on)


async def test_a_command_goes_on_from_the_request(stage: Stage, exported: InMemorySpanExporter) -> None:
    host = await stage.start()
    order, outside = uuid4(), begin_trace()
    await host.ask(Bump(order_id=order), outside)
    await eventually(lambda: "facts,toy.counted.v1 send" in spans_of(exported, outside))
    spans = spans_of(exported, outside)
    assert follows(spans["facts,toy.counted.v1 send"], spans["decide Bump"])


async def test_a_collector_that_is_away_is_logged_once_and_holds_nothing_up(
    stage: Stage, logged: Logged
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes connections, and never answers
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1/traces"
        tracing.start_tracing("toy", OTLPSpanExporter(url, timeout=0.5))
        try:
            host = await stage.start()
            for _ in range(3):
                await say(stage, Bumped(order_id=(order := uuid4())), begin_trace())
                await eventually(partial(has_published, stage, order))
                tracing.flush_traces()
            await stage.stop(host)
        finally:
            began = time.monotonic()
            tracing.stop_tracing()
    assert time.monotonic() - began < PROMPTLY_SECONDS
    away = [line for line in logged if line.get("of") == "trace collector"]
    assert [line["event"] for line in away] == ["outage_began"]
