"""Spans: what this process does for an order, in that order's trace, exported by OTLP.

Configured by OpenTelemetry's own variables: OTEL_EXPORTER_OTLP_ENDPOINT (without it nothing is recorded),
OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG, OTEL_BSP_MAX_QUEUE_SIZE, OTEL_EXPORTER_OTLP_TIMEOUT, ...
Whether an order is recorded is decided once, where its trace begins.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from types import TracebackType
from typing import Self

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.aio_pika import AioPikaInstrumentor
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.propagators.textmap import CarrierT, Getter, default_getter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from events.messaging.retries import attempts_before
from events.messaging.subscriber import Arrived
from events.runtime.input import Input
from events.service import EXCHANGE
from events.telemetry import tracing
from events.telemetry.log import Outage
from events.telemetry.redaction import in_words, redacted

# The W3C trace context of an order, from its first request through every fact and call.


_IDS = RandomIdGenerator()
_TRACEPARENT = re.compile(r"^00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}\Z")
_TRACEPARENT_CHARACTERS = 55
_NOTHING = nullcontext()


def begin_trace() -> str:
    """A new traceparent, for what arrives without one."""
    return f"00-{_IDS.generate_trace_id():032x}-{_IDS.generate_span_id():016x}-01"


def trace_id(traceparent: str | None) -> str | None:
    """The trace id in a traceparent, as logs and Jaeger show it."""
    if not traceparent or len(traceparent) > _TRACEPARENT_CHARACTERS:
        return None
    return _trace_id(traceparent)


@lru_cache(maxsize=4_096)
def _trace_id(traceparent: str) -> str | None:
    """Remembered: one and the same is looked at several times on its way through a process."""
    found = _TRACEPARENT.match(traceparent)
    return found[1] if found else None


ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
NAMESPACE = "murmuration"
# One request to the collector may take so long; OpenTelemetry's default would hold up the end of a process.
EXPORT_TIMEOUT_SECONDS = 3.0

Attributes = Mapping[str, AttributeValue]


class Export(SpanExporter):
    """By OTLP. A collector that is away is logged once, and costs the spans that find no room meanwhile."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._outage = Outage("trace collector")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self._outage.ended()
        else:
            self._outage.began(ConnectionError("spans could not be delivered"))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _Tolerant(TraceContextTextMapPropagator):
    """W3C's trace context, where a header that is no text is no context, instead of an error."""

    def extract(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        getter: Getter[CarrierT] = default_getter,
    ) -> Context:
        try:
            return super().extract(carrier, context, getter)
        except (TypeError, ValueError, AttributeError):
            return Context() if context is None else context


class _Recording:
    """What makes spans in this process; two tracers over one exporter."""

    def __init__(self, process: str, exporter: SpanExporter) -> None:
        resource = Resource.create({"service.name": process, "service.namespace": NAMESPACE})
        self._processor = BatchSpanProcessor(Export(exporter))
        self.provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self.tracer = self._tracer_of(self.provider)
        # For spans of no order, once something that is recorded links to them.
        self.for_certain = self._tracer_of(TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False))

    def _tracer_of(self, provider: TracerProvider) -> Tracer:
        provider.add_span_processor(self._processor)
        return provider.get_tracer(NAMESPACE)

    def flush(self) -> None:
        self._processor.force_flush()

    def end(self) -> None:
        self._processor.shutdown()  # type: ignore[no-untyped-call]


_recording: _Recording | None = None


def start_tracing(process: str, exporter: SpanExporter | None = None) -> None:
    """Record from now on, if the environment names a collector or an exporter is given."""
    global _recording
    if exporter is None and not any(os.environ.get(name) for name in ENDPOINTS):
        return
    os.environ.setdefault("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", str(EXPORT_TIMEOUT_SECONDS))
    _recording = _Recording(process, exporter or OTLPSpanExporter())
    # Anybody can put anything where a trace context is looked for.
    propagate.set_global_textmap(_Tolerant())
    AioPikaInstrumentor().instrument(tracer_provider=_recording.provider)


def flush_traces() -> None:
    """Export what has ended so far."""
    if _recording is not None:
        _recording.flush()


def stop_tracing() -> None:
    """Export what there is, if the collector takes it, and record no more."""
    global _recording
    if _recording is not None:
        AioPikaInstrumentor().uninstrument()
        _recording.end()
        _recording = None


def is_tracing() -> bool:
    """Whether spans are recorded at all."""
    return _recording is not None


@dataclass(slots=True)
class Work:
    """Something under way for one order. `traceparent` is what its effects descend from.

    It ends with the `with` block, as failed if that raises.
    """

    traceparent: str
    _span: Span | None = None

    def note(self, attributes: Attributes) -> None:
        """Add what is known only now."""
        if self._span is not None:
            self._span.set_attributes(attributes)

    def rename(self, name: str) -> None:
        """Give it the name that is known only now."""
        if self._span is not None:
            self._span.update_name(name)

    def fail(self, why: str) -> None:
        """It did not work out; the span is an error."""
        if self._span is not None:
            self._span.set_status(StatusCode.ERROR, redacted(why))

    def end(self) -> None:
        if self._span is not None:
            self._span.end()

    def current(self) -> AbstractContextManager[object]:
        """Inside, its span is the current one: that of `note_on_current`, and above those of libraries."""
        if _recording is None:
            return _NOTHING
        span = self._span or NonRecordingSpan(_span_context(self.traceparent))
        return trace.use_span(span, record_exception=False, set_status_on_exception=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is not None:
            self.fail(in_words(error) or type(error).__name__)
        self.end()


def work(
    name: str,
    traceparent: str | None,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Callable[[], Attributes] | None = None,
    linked_to: Callable[[], SpanContext | None] | None = None,
) -> Work:
    """Begin something in the trace of `traceparent`; in a new one where that is missing or malformed.

    `attributes` and `linked_to` are asked only when the span may be recorded.
    """
    if trace_id(traceparent) is None:
        traceparent = None
    if _recording is None:
        return Work(traceparent or begin_trace())
    if traceparent and not is_sampled(traceparent):
        return Work(traceparent)
    context = Context()
    if traceparent:
        context = trace.set_span_in_context(NonRecordingSpan(_span_context(traceparent)), context)
    span = _recording.tracer.start_span(name, context, kind, attributes() if attributes else None)
    if not span.is_recording():
        return Work(traceparent_of(span.get_span_context()))
    if linked_to is not None and (other := linked_to()) is not None:
        span.add_link(other)
    return Work(traceparent_of(span.get_span_context()), span)


def unordered(name: str, attributes: Attributes | None = None) -> Span | None:
    """A span of its own trace, for what is done for many orders at once. None when nothing is recorded."""
    if _recording is None:
        return None
    return _recording.for_certain.start_span(name, Context(), attributes=attributes)


@contextmanager
def in_trace_of(traceparent: str | None) -> Iterator[None]:
    """Inside, what instrumentations of libraries trace descends from `traceparent`, if that is recorded."""
    if _recording is None:
        yield
    elif trace_id(traceparent) is None or not is_sampled(traceparent):
        with suppress_instrumentation():
            yield
    else:
        span = NonRecordingSpan(_span_context(traceparent or ""))
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            yield


def is_sampled(traceparent: str | None) -> bool:
    """Whether a well-formed traceparent says that its trace is recorded."""
    return bool(traceparent and int(traceparent[-2:], 16) & TraceFlags.SAMPLED)


def note_on_current(attributes: Attributes) -> None:
    """Add to the span of the work that this is done for, if there is one."""
    trace.get_current_span().set_attributes(attributes)


def current_traceparent() -> str | None:
    """Of the work that this is done for, such as a request. None when there is none, or nothing is traced."""
    context = trace.get_current_span().get_span_context()
    return traceparent_of(context) if context.is_valid else None


def traceparent_of(context: SpanContext) -> str:
    """W3C's form of a span's context."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & TraceFlags.SAMPLED:02x}"


def _span_context(traceparent: str) -> SpanContext:
    """Of a well-formed traceparent."""
    trace_of, span_of, flags = (int(part, 16) for part in traceparent.split("-")[1:])
    return SpanContext(trace_of, span_of, is_remote=True, trace_flags=TraceFlags(flags))


# The spans of a batch: one for each input, in the trace of its order, all linked to the batch's own.


class BatchTrace:
    """Of the input of one service between two commits. Use it as a context manager: then every span ends."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._entered = 0
        self._works: dict[int, Work] = {}
        self._batch: Span | None = None

    def enter(self, item: Input, message: Arrived | None = None) -> Input:
        """Begin its span. Answers the same as something that descends from that span."""
        self._entered += 1
        if not tracing.is_tracing() and trace_id(item.traceparent) is not None:
            return item
        name, kind = f"process {item.name}", SpanKind.CONSUMER
        if message is None:
            name, kind = f"decide {item.name}", SpanKind.INTERNAL

        def attributes() -> Attributes:
            of_delivery = self._of_delivery(message, item.name) if message is not None else {}
            return self._of(item) | of_delivery

        work = tracing.work(name, item.traceparent, kind, attributes, self._batch_context)
        if work.traceparent == item.traceparent:
            return item
        descending = replace(item, traceparent=work.traceparent)
        self._works[id(descending)] = work
        return descending

    def fail(self, item: Input, why: str) -> None:
        """It was not committed."""
        if (work := self._works.get(id(item))) is not None:
            work.fail(why)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for work in self._works.values():
            work.end()
        if self._batch is not None:
            self._batch.set_attribute("batch.size", self._entered)
            self._batch.end()

    def _batch_context(self) -> SpanContext | None:
        """Of the batch, whose span begins with the first input that is recorded."""
        if self._batch is None:
            self._batch = tracing.unordered(f"commit batch of {self._service}")
        return None if self._batch is None else self._batch.get_span_context()

    def _of(self, item: Input) -> dict[str, str | int]:
        return {"saga.order_id": str(item.order_id), "saga.causation_id": str(item.causation_id)}

    def _of_delivery(self, message: Arrived, fact_name: str) -> dict[str, str | int]:
        """OpenTelemetry's conventions for messaging, and this system's own words."""
        return {
            "messaging.system": "rabbitmq",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": f"{EXCHANGE}:{fact_name}:{self._service}.facts",
            "messaging.rabbitmq.destination.routing_key": message.routing_key or "",
            "messaging.message.id": message.message_id or "",
            "messaging.message.conversation_id": message.correlation_id or "",
            "saga.fact": fact_name,
            "saga.step": f"{self._service}:{fact_name.rpartition('.')[0]}",
            "saga.attempt": attempts_before(message) + 1,
        }
