"""The spans of a batch: one for each thing told, in the trace of its order, all linked to the batch's own."""

from dataclasses import replace
from types import TracebackType
from typing import Self

from aio_pika import IncomingMessage
from opentelemetry.trace import Span, SpanContext, SpanKind

from events.messaging.retries import attempts_before
from events.runtime.input import Input
from events.service import EXCHANGE
from events.telemetry import tracing
from events.telemetry.tracing import Attributes, Work


class BatchTrace:
    """Of what one service is told between two commits. Use it as a context manager: then every span ends."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._told = 0
        self._works: dict[int, Work] = {}
        self._batch: Span | None = None

    def enter(self, told: Input, message: IncomingMessage | None = None) -> Input:
        """Begin its span. Answers the same as something that descends from that span."""
        self._told += 1
        name, kind = f"process {told.name}", SpanKind.CONSUMER
        if message is None:
            name, kind = f"decide {told.name}", SpanKind.INTERNAL

        def attributes() -> Attributes:
            of_delivery = self._of_delivery(message, told.name) if message is not None else {}
            return self._of(told) | of_delivery

        work = tracing.work(name, told.traceparent, kind, attributes, self._batch_context)
        if work.traceparent == told.traceparent:
            return told
        descending = replace(told, traceparent=work.traceparent)
        self._works[id(descending)] = work
        return descending

    def fail(self, told: Input, why: str) -> None:
        """It was not committed."""
        if (work := self._works.get(id(told))) is not None:
            work.fail(why)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for work in self._works.values():
            work.end()
        if self._batch is not None:
            self._batch.set_attribute("batch.told", self._told)
            self._batch.end()

    def _batch_context(self) -> SpanContext | None:
        """Of the batch, whose span begins with the first thing told that is recorded."""
        if self._batch is None:
            self._batch = tracing.unordered(f"commit batch of {self._service}")
        return None if self._batch is None else self._batch.get_span_context()

    def _of(self, told: Input) -> dict[str, str | int]:
        return {"saga.order_id": str(told.order_id), "saga.cause_id": str(told.cause)}

    def _of_delivery(self, message: IncomingMessage, fact_name: str) -> dict[str, str | int]:
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
