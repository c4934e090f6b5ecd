"""Messages that cannot be read or handled go to the service's dead-letter queue, with the reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from events.runtime.log import log
from events.runtime.settings import ServiceSettings
from events.service import DEAD_LETTER_EXCHANGE

MAX_DETAIL_CHARACTERS = 2_000


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message nobody here can use, and why: a short `reason` code and a `detail` for a person."""

    message: AbstractIncomingMessage
    reason: str
    detail: str


class DeadLetterOffice:
    """Sends dead letters, confirmed, before the original message is acknowledged."""

    def __init__(self, settings: ServiceSettings, service: str) -> None:
        self._settings = settings
        self._service = service

    async def send(self, letters: Sequence[DeadLetter]) -> None:
        """Publish all; they are rare, so each sending has its own short connection.

        Raises what aio-pika raises when the broker is away: the originals are then still unacknowledged.
        """
        timeout_seconds = self._settings.publish_timeout_seconds
        async with (
            await aio_pika.connect(self._settings.broker_url, timeout=timeout_seconds) as connection,
            connection.channel(on_return_raises=True) as channel,
        ):
            exchange = await channel.get_exchange(DEAD_LETTER_EXCHANGE)
            for letter in letters:
                await exchange.publish(
                    self._with_reason(letter), self._service, mandatory=True, timeout=timeout_seconds
                )
                log.error(
                    "dead_letter",
                    reason=letter.reason,
                    detail=letter.detail[:MAX_DETAIL_CHARACTERS],
                    fact_id=letter.message.message_id,
                    order_id=letter.message.headers.get("order_id"),
                    wire_name=letter.message.type or letter.message.routing_key,
                )

    def _with_reason(self, letter: DeadLetter) -> aio_pika.Message:
        """The original body and properties, untouched, with the reason in headers of their own."""
        original = letter.message
        headers: dict[str, Any] = dict(original.headers)
        headers["dead_letter_reason"] = letter.reason
        headers["dead_letter_detail"] = letter.detail[:MAX_DETAIL_CHARACTERS]
        headers["dead_letter_service"] = self._service
        headers["dead_letter_at"] = datetime.now(UTC).isoformat()
        headers["dead_letter_routing_key"] = original.routing_key or ""
        return aio_pika.Message(
            body=original.body,
            headers=headers,
            content_type=original.content_type,
            content_encoding=original.content_encoding,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            correlation_id=original.correlation_id,
            message_id=original.message_id,
            timestamp=original.timestamp,
            type=original.type,
            app_id=original.app_id,
        )
