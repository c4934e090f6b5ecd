"""Messages whose properties are written byte by byte: what other clients can send and no encoder here would.

A value of a header is its type's letter and its bytes. Nothing here recurses, so nesting has no bound.
"""

import struct
from collections.abc import Iterable
from itertools import cycle, islice
from typing import Any

from aio_pika.abc import AbstractChannel
from pamqp.commands import Basic

Header = tuple[bytes, bytes]

MAX_SHORT_BYTES = 255


def short(text: bytes) -> bytes:
    """A short string, as properties and names of headers are."""
    return bytes([len(text)]) + text


def long_string(text: bytes, kind: bytes = b"S") -> bytes:
    """A header's text, or with `x` its bytes."""
    return kind + struct.pack(">I", len(text)) + text


def table(headers: Iterable[Header]) -> bytes:
    """Headers, or as a value of one after an F."""
    content = b"".join(short(name) + value for name, value in headers)
    return struct.pack(">I", len(content)) + content


def nested_table(headers: Iterable[Header]) -> bytes:
    return b"F" + table(headers)


def array(values: Iterable[bytes]) -> bytes:
    content = b"".join(values)
    return b"A" + struct.pack(">I", len(content)) + content


def deep(depth: int, kinds: str = "F") -> bytes:
    """A table in a table (F), an array in an array (A) or both in turns (FA), so many of them."""
    value = b"V"
    for kind in islice(cycle(kinds), depth):
        value = nested_table([(b"n", value)]) if kind == "F" else array([value])
    return value


def properties(headers: Iterable[Header] | None = None, **given: bytes) -> "RawProperties":
    """Basic properties by pamqp's names, each as the bytes that stand for it, and these headers."""
    if headers is not None:
        given["headers"] = table(headers)
    assert given.keys() <= Basic.Properties.flags.keys()
    flags = sum(Basic.Properties.flags[name] for name in given)
    content = b"".join(given[name] for name in Basic.Properties.__slots__ if name in given)
    return RawProperties(struct.pack(">H", flags) + content)


class RawProperties(Basic.Properties):
    """Properties that are these bytes. The id in it is for aiormq alone, to tell returns apart."""

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self.raw = raw

    def marshal(self) -> bytes:
        return self.raw


async def publish(
    channel: AbstractChannel, exchange: str, routing_key: str, raw: RawProperties, body: bytes
) -> Any:
    """Publish and wait for the confirm. Raises what aiormq raises when the broker will not have it."""
    beneath = await channel.get_underlay_channel()
    return await beneath.basic_publish(body, exchange=exchange, routing_key=routing_key, properties=raw)
