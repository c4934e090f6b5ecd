"""Values of any shape in which every string is an attempt to run a script on the page that shows it."""

import types
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID, uuid4

from pydantic import BaseModel

SCRIPT = "\"'><script>alert(1)</script>"
ESCAPED = "&lt;script&gt;"
_PLAIN: dict[Any, Any] = {str: SCRIPT, int: 7, float: 7.0, bool: True, Any: SCRIPT, type(None): None}


def planted(kind: Any) -> Any:
    """A value of this type: optional parts are there, collections have one element."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    if kind is UUID:
        return uuid4()
    if kind is datetime:
        return datetime.now(UTC)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next(iter(kind))
    return _composed(kind, get_origin(kind), get_args(kind))


def _composed(kind: Any, origin: Any, parts: tuple[Any, ...]) -> Any:
    if origin is Annotated:
        return planted(parts[0])
    if origin is Literal:
        return parts[0]
    if origin in (Union, types.UnionType):
        return planted(next(part for part in parts if part is not type(None)))
    if isinstance(origin, type) and issubclass(origin, tuple):
        return tuple(planted(part) for part in parts if part is not ...)
    if isinstance(origin, type) and hasattr(origin, "keys"):
        return {planted(parts[0]): planted(parts[1])}
    if isinstance(origin, type):
        return [planted(parts[0])]
    return kind(**{name: planted(hint) for name, hint in _parts_of(kind).items()})


def _parts_of(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    if is_dataclass(kind):
        return {part.name: hints[part.name] for part in fields(kind) if not part.name.startswith("_")}
    return {name: hints[name] for name in kind.model_fields} if issubclass(kind, BaseModel) else hints
