"""Values in PostgreSQL's binary format: what a prepared statement's parameters are sent in.

For whole columns of values at once, which psycopg adapts value by value. The formats are those of the
`..._send` functions of PostgreSQL's source (array_send, timestamptz_send and so on).
"""

import struct
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import postgres
from pydantic_core import to_json
from sqlalchemy import ARRAY, BigInteger, Boolean, Date, DateTime, Integer, Interval, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

Encode = Callable[[Any], bytes]

_INT4, _INT8 = struct.Struct("!i"), struct.Struct("!q")
_INTERVAL = struct.Struct("!qii")
# Number of dimensions, whether there are nulls, type of the elements; then size and lower bound.
_NO_DIMENSION, _ONE_DIMENSION = struct.Struct("!iiI"), struct.Struct("!iiIii")
_NULL = _INT4.pack(-1)
_TIMESTAMP_EPOCH, _DATE_EPOCH = datetime(2000, 1, 1, tzinfo=UTC), date(2000, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_JSONB_VERSION = b"\x01"


def _uuid(value: UUID) -> bytes:
    return value.bytes


def _text(value: str) -> bytes:
    return value.encode()


def _boolean(value: bool) -> bytes:
    return b"\x01" if value else b"\x00"


def _instant(value: datetime) -> bytes:
    return _INT8.pack((value - _TIMESTAMP_EPOCH) // _MICROSECOND)


def _date(value: date) -> bytes:
    return _INT4.pack((value - _DATE_EPOCH).days)


def _interval(value: timedelta) -> bytes:
    return _INTERVAL.pack(value // _MICROSECOND, 0, 0)


def _json(value: Any) -> bytes:
    return _JSONB_VERSION + to_json(value)


_FORMATS: tuple[tuple[type[TypeEngine[Any]], str, Encode], ...] = (
    (Uuid, "uuid", _uuid),
    (Text, "text", _text),
    (BigInteger, "int8", _INT8.pack),  # before Integer, whose subclass it is
    (Integer, "int4", _INT4.pack),
    (Boolean, "bool", _boolean),
    (DateTime, "timestamptz", _instant),
    (Date, "date", _date),
    (Interval, "interval", _interval),
    (JSONB, "jsonb", _json),
)


def parameter_format(kind: TypeEngine[Any]) -> tuple[int, Encode]:
    """The OID and the encoder of a column's type, or of an array of such. Raises TypeError for others."""
    element = kind.item_type if isinstance(kind, ARRAY) else kind
    for known, name, encode in _FORMATS:
        if isinstance(element, known):
            info = postgres.types[name]
            if isinstance(kind, ARRAY):
                return info.array_oid, _array_of(info.oid, encode)
            return info.oid, encode
    raise TypeError(f"parameters of type {kind!r} are not sent in binary here")


def _array_of(oid: int, encode: Encode) -> Encode:
    def array(values: Sequence[Any]) -> bytes:
        if not values:
            return _NO_DIMENSION.pack(0, 0, oid)
        parts = [_ONE_DIMENSION.pack(1, None in values, oid, len(values), 1)]
        for value in values:
            if value is None:
                parts.append(_NULL)
            else:
                encoded = encode(value)
                parts.append(_INT4.pack(len(encoded)))
                parts.append(encoded)
        return b"".join(parts)

    return array
