"""A message's AMQP properties as text and back, exactly; and as JSON for a person to read."""

import json
import math
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from pamqp.commands import Basic

from events.messaging.lenient_pamqp import MAX_DEPTH

# The headers, which are nested up to MAX_DEPTH, are a table within that of the properties.
MAX_TEXT_DEPTH = MAX_DEPTH + 1
MAX_SHOWN_CHARACTERS = 2_000
# A table is an object within the object that is its tag.
_MAX_BRACKETS = 2 * MAX_TEXT_DEPTH + 1
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')

# JSON has no such things. Every object in the text is one of these, tables (of headers) included.
_TABLE = "table"
_TAGS: dict[str, tuple[tuple[type, ...], Callable[[Any], Any], Callable[[Any], Any]]] = {
    "bytes": (
        (bytes, bytearray),
        lambda value: b64encode(value).decode(),
        lambda text: bytearray(b64decode(text)),
    ),
    "timestamp": ((datetime,), datetime.isoformat, datetime.fromisoformat),
    "decimal": ((Decimal,), str, Decimal),
}


def as_text(properties: Mapping[str, Any]) -> str:
    """Properties by their AMQP names, headers among them, as JSON in ASCII; equal ones give equal texts."""
    return json.dumps(_tagged(dict(properties)), sort_keys=True)


def from_text(text: str) -> dict[str, Any]:
    """The properties that `as_text` was given; bytes come back as a bytearray.

    An earlier release read tables to any depth: what is nested deeper than now is there as text.
    """
    properties: dict[str, Any] = _untagged(json.loads(_cut(text)), depth=1)
    return properties


def _cut(text: str) -> str:
    """The same JSON, with strings in place of what nests too deep to be parsed: parsing it is recursive."""
    pieces, depth, copied, start = [], 0, 0, 0
    for found in _STRING_OR_BRACKET.finditer(text):
        if found[0] in ("{", "["):
            depth += 1
            if depth == _MAX_BRACKETS + 1:
                start = found.start()
        elif found[0] in ("}", "]"):
            depth -= 1
            if depth == _MAX_BRACKETS:
                deeper = text[start : min(found.end(), start + MAX_SHOWN_CHARACTERS)]
                pieces += [text[copied:start], json.dumps(deeper)]
                copied = found.end()
    return "".join([*pieces, text[copied:]])


def properties_of(header: Basic.Properties) -> dict[str, Any]:
    """Those that are set, by their names in AMQP."""
    found = {name: getattr(header, name) for name in Basic.Properties.__slots__}
    found["type"] = found.pop("message_type")
    return {name: value for name, value in found.items() if value not in (None, "")}


def shown(value: Any) -> Any:
    """A value of properties or headers for a person, in plain JSON."""
    match value:
        case dict():
            return {name: shown(each) for name, each in value.items()}
        case list():
            return [shown(each) for each in value]
        case bytes() | bytearray():
            return {"base64": b64encode(value).decode()}
        case datetime():
            return value.isoformat()
        case float() if not math.isfinite(value):
            return str(value)
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)


def _tagged(value: Any) -> Any:
    if isinstance(value, list):
        return [_tagged(each) for each in value]
    if isinstance(value, dict):
        return {_TABLE: {name: _tagged(each) for name, each in value.items()}}
    for tag, (kinds, to_json, _) in _TAGS.items():
        if isinstance(value, kinds):
            return {tag: to_json(value)}
    return value


def _untagged(value: Any, depth: int) -> Any:
    if isinstance(value, dict):
        ((tag, inner),) = value.items()
        if tag != _TABLE:
            return _TAGS[tag][2](inner)
        if depth <= MAX_TEXT_DEPTH:
            return {name: _untagged(each, depth + 1) for name, each in inner.items()}
    elif not isinstance(value, list):
        return value
    elif depth <= MAX_TEXT_DEPTH:
        return [_untagged(each, depth + 1) for each in value]
    return json.dumps(value)[:MAX_SHOWN_CHARACTERS]
