"""Lets a message through whose properties are not well formed, so that it can be dead-lettered.

pamqp raises on a string that is not UTF-8 and on a timestamp beyond the calendar. That ends the connection,
and so would every redelivery: one such message would keep everything behind it from being read.
"""

import struct
from datetime import datetime
from typing import Any

from pamqp import decode

_SHORT_LENGTH = struct.Struct(">B")
_LONG_LENGTH = struct.Struct(">I")
_TIMESTAMP_BYTES = 8
_strict_timestamp = decode.timestamp


def be_lenient() -> None:
    """Have pamqp, and with it aio-pika and FastStream, read such properties as well as can be."""
    decode.METHODS["shortstr"] = short_string
    decode.METHODS["timestamp"] = decode.TABLE_MAPPING[b"T"] = timestamp
    decode.METHODS["table"] = decode.TABLE_MAPPING[b"F"] = table


def short_string(value: bytes) -> tuple[int, str]:
    """A string; what is not UTF-8 in it becomes U+FFFD."""
    end = 1 + _SHORT_LENGTH.unpack_from(value)[0]
    return end, value[1:end].decode(errors="replace")


def timestamp(value: bytes) -> tuple[int, datetime | None]:
    """An instant; None when it is beyond the calendar."""
    try:
        return _strict_timestamp(value)
    except (ValueError, OverflowError, OSError):
        return _TIMESTAMP_BYTES, None


def table(value: bytes) -> tuple[int, dict[str, Any]]:
    """Headers, with keys as lenient as `short_string`. Raises ValueError when lengths do not fit."""
    end = _LONG_LENGTH.size + _LONG_LENGTH.unpack_from(value)[0]
    if end > len(value):
        raise ValueError("the table is longer than the data")
    fields: dict[str, Any] = {}
    offset = _LONG_LENGTH.size
    while offset < end:
        consumed, key = short_string(value[offset:])
        offset += consumed
        consumed, fields[key] = decode.embedded_value(value[offset:end])
        offset += consumed
    return end, fields
