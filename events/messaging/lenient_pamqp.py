"""Has pamqp, and with it aiormq, aio-pika and FastStream, read any message's properties as well as can be.

pamqp raises on a string that is not UTF-8, on a timestamp beyond the calendar, and, by way of recursion, on a
table in a table in a table. That ends the connection, and so would every redelivery: one such message would
keep everything behind it from being read. There is no hook, so three of its decoders are replaced. Whether
pamqp is still what this file takes it for, tests/runtime/test_library_canaries.py says.

RabbitMQ 4 passes on any delivery mode, and aio-pika raises on what is neither 1 nor 2 before anybody gets the
message: nobody could ever acknowledge it. Its enumeration learns what such a value means.
"""

import struct
from datetime import datetime
from typing import Any

from aio_pika import DeliveryMode
from pamqp import decode

# Facts nest nothing, the broker's own notes are four deep. Each level takes three of Python's frames.
MAX_DEPTH = 16
SHORT_STRING_BYTES = 255
# Under which name headers are found of which nothing can be read.
UNREADABLE = "unreadable_headers"

_LENGTH = struct.Struct(">I")
_UNSIGNED_LONG_LONG = struct.Struct(">Q")
_NESTED = (b"F", b"A")
# AMQP 0-9-1 as RabbitMQ speaks it: how many bytes a value of each other type has. Strings tell their length.
_STRINGS = (b"S", b"x")
_STRING = ord("S")
_BYTES = {b"t": 1, b"b": 1, b"B": 1, b"s": 2, b"u": 2, b"I": 4, b"i": 4, b"l": 8, b"L": 8, b"f": 4, b"d": 8}
_BYTES |= {b"D": 5, b"T": 8, b"V": 0}

_TOO_LONG = "a value is longer than what it is in"

_strict_timestamp = decode.timestamp


class CutHeaders(dict[str, Any]):
    """Headers that were not read whole: what is nested deeper than MAX_DEPTH is there as the bytes it was."""


def be_lenient() -> None:
    """Replace the decoders, for all of this process. Safe to repeat."""
    decode.METHODS["shortstr"] = short_string
    decode.METHODS["timestamp"] = timestamp
    decode.METHODS["table"] = table
    DeliveryMode._missing_ = classmethod(_persistent)  # type: ignore[assignment]


def _persistent(kinds: type[DeliveryMode], _: object) -> DeliveryMode:
    """What an unknown delivery mode counts as: nothing is lost by taking it for the careful one."""
    return kinds.PERSISTENT


def short_string(value: bytes) -> tuple[int, str]:
    """A string; what is not UTF-8 in it becomes U+FFFD, and it stays as short as AMQP wants it."""
    end = 1 + value[0]
    return end, _short(value[1:end])


def timestamp(value: bytes) -> tuple[int, datetime | None]:
    """An instant; None when it is beyond the calendar."""
    try:
        return _strict_timestamp(value[: _UNSIGNED_LONG_LONG.size])
    except (ValueError, OverflowError, OSError):
        return _UNSIGNED_LONG_LONG.size, None


def table(value: bytes) -> tuple[int, dict[str, Any]]:
    """Headers. Whatever is in them, the bytes behind them are found."""
    end = _LENGTH.size + _LENGTH.unpack_from(value)[0]
    reader = _Reader(value)
    try:
        fields = reader.table(_LENGTH.size, min(end, len(value)), depth=1)
    except (ValueError, IndexError, KeyError, struct.error):
        return end, CutHeaders({UNREADABLE: bytearray(value[_LENGTH.size : end])})
    return end, CutHeaders(fields) if reader.cut else fields


class _Reader:
    """Reads the values of one table. Raises what Python raises when lengths or types make no sense."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.cut = False

    def table(self, place: int, end: int, depth: int) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        data = self._data
        while place < end:
            begin = place + 1
            place = begin + data[place]
            name = _short(data[begin:place])
            if data[place] == _STRING:
                # What nearly all are, in every message: without a further call.
                begin = place + 1 + _LENGTH.size
                place = begin + _LENGTH.unpack_from(data, place + 1)[0]
                if place > end:
                    raise ValueError(_TOO_LONG)
                fields[name] = _text(data[begin:place])
            else:
                fields[name], place = self._value(place, end, depth)
        return fields

    def array(self, place: int, end: int, depth: int) -> list[Any]:
        values = []
        while place < end:
            value, place = self._value(place, end, depth)
            values.append(value)
        return values

    def _value(self, place: int, end: int, depth: int) -> tuple[Any, int]:
        """A value, and the place behind it. No more of the data is copied than is the value's."""
        kind = self._data[place : place + 1]
        begin = place + 1
        if kind in _NESTED or kind in _STRINGS:
            begin += _LENGTH.size
            stop = begin + _LENGTH.unpack_from(self._data, place + 1)[0]
        else:
            stop = begin + _BYTES[kind]
        if stop > end:
            raise ValueError(_TOO_LONG)
        if kind not in _NESTED:
            return self._plain(kind, place, begin, stop), stop
        if depth >= MAX_DEPTH:
            self.cut = True
            return bytearray(self._data[begin:stop]), stop
        read = self.table if kind == b"F" else self.array
        return read(begin, stop, depth + 1), stop

    def _plain(self, kind: bytes, place: int, begin: int, stop: int) -> Any:
        if kind == b"S":
            return _text(self._data[begin:stop])
        if kind == b"T":
            at = timestamp(self._data[begin:stop])[1]
            return at if at is not None else _UNSIGNED_LONG_LONG.unpack_from(self._data, begin)[0]
        return decode.embedded_value(self._data[place:stop])[1]


def _text(text: bytes) -> str | bytes:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text


def _short(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        # Each byte that is not UTF-8 becomes three.
        readable = text.decode(errors="replace").encode()
        return readable[:SHORT_STRING_BYTES].decode(errors="ignore")
