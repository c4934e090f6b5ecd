"""Acknowledges messages with as few frames as possible, and never one that is not done with."""

from collections.abc import Sequence
from typing import Any, Protocol

from aio_pika.exceptions import ChannelInvalidStateError


class Delivered(Protocol):
    """What is used of a message that arrived, by aio-pika's names."""

    @property
    def channel(self) -> Any:
        """The channel it came on. Raises ChannelInvalidStateError once that is closed."""

    @property
    def delivery_tag(self) -> int | None: ...

    async def ack(self, multiple: bool = False) -> None: ...


class Acknowledgements:
    """Of the messages of one consumer.

    Delivery tags count up from 1 on a channel. One `multiple` acknowledgement covers what is done up to the
    first message that is not; it must not reach further, whatever order messages are done in. What is done
    beyond that, because one before it is set aside for a while, is acknowledged by itself.
    """

    def __init__(self) -> None:
        self._channel: Any = None
        self._acknowledged: set[int] = set()
        self._reached = 0

    async def acknowledge(self, messages: Sequence[Delivered]) -> None:
        """These are done with. Those of a channel that is closed the broker delivers once more."""
        done = self._on_current_channel(messages)
        last: Delivered | None = None
        while (next_tag := self._reached + 1) in done or next_tag in self._acknowledged:
            self._reached = next_tag
            self._acknowledged.discard(next_tag)
            last = done.pop(next_tag, last)
        self._acknowledged |= done.keys()
        if last is not None:
            await last.ack(multiple=True)
        for message in done.values():
            await message.ack()

    def _on_current_channel(self, messages: Sequence[Delivered]) -> dict[int, Delivered]:
        """Those that came on the newest channel that any came on, by their tags."""
        on = [(channel, message) for message in messages if (channel := _channel_of(message)) is not None]
        if on and on[-1][0] is not self._channel:
            self._channel, self._acknowledged, self._reached = on[-1][0], set(), 0
        return {
            message.delivery_tag: message
            for channel, message in on
            if channel is self._channel and message.delivery_tag is not None
        }


def _channel_of(message: Delivered) -> Any:
    try:
        return message.channel
    except ChannelInvalidStateError:
        return None


def is_there(message: Delivered) -> bool:
    """Whether the channel that it came on is still open."""
    channel = _channel_of(message)
    return channel is not None and not channel.is_closed
