"""JSON read the way two programs cannot read differently: what comes from outside is read like this."""

import json
from typing import Any, NoReturn

JSON_TYPE = "application/json"
_UTF_8 = ("", "charset=utf-8", 'charset="utf-8"')


def is_json_type(content_type: str) -> bool:
    """Whether a content type names JSON, in the one encoding that JSON has."""
    if content_type == JSON_TYPE:
        return True
    name, *parameters = (part.strip().lower() for part in content_type.split(";"))
    return name == JSON_TYPE and all(part in _UTF_8 for part in parameters)


def parsed(content: bytes) -> Any:
    """What this JSON says. Raises json.JSONDecodeError, whose `msg` says in a few words what is wrong.

    It must be UTF-8; no object names a key twice, for some would take the first and some the last; `NaN` and
    `Infinity` are no numbers; no text has the character U+0000, which PostgreSQL cannot keep, nor half of a
    surrogate pair, which no encoding can.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise json.JSONDecodeError("it is not UTF-8", "", 0) from None
    try:
        value = _DECODER.decode(text)
        # Only an escape can write such a character: JSON has no control characters, UTF-8 no surrogates.
        if "\\u" in text:
            _check_texts(value)
    except json.JSONDecodeError as error:
        raise json.JSONDecodeError(f"it is not JSON: {error.msg}", text, error.pos) from None
    except ValueError as error:
        raise json.JSONDecodeError(str(error), text, 0) from None
    except RecursionError:
        raise json.JSONDecodeError("it nests too deep", text, 0) from None
    return value


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"it names the key {twice[:_SHOWN_CHARACTERS]!a} twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"it is not JSON: {name} is no number")


def _check_texts(value: Any) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("it has the character U+0000 in a text")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("it has half of a surrogate pair in a text")
    elif isinstance(value, list):
        for part in value:
            _check_texts(part)
    elif isinstance(value, dict):
        for name, part in value.items():
            _check_texts(name)
            _check_texts(part)


_SHOWN_CHARACTERS = 64
_DECODER = json.JSONDecoder(object_pairs_hook=_named_once, parse_constant=_no_number)
