"""What may be shown of an error, or of any text: no password, no token, no customer and no amount.

Whoever logs, stores or traces why something failed takes `in_words(error)`; what is logged is looked through
once more as a whole. PostgreSQL says with some errors what was in the row, and pydantic what was in the body:
neither is shown. Of an error that nobody worded with care only words are shown, not what they quote.
"""

import re
import traceback
from collections.abc import Iterator, MutableMapping
from typing import Any

import psycopg
from pydantic import ValidationError

HIDDEN = "..."
MAX_CHAIN = 10
# Their own words say where something is wrong, and not what was there.
_CAREFUL = ("events.", "saga_tracker.", "aio_pika.", "aiormq.", "aiohttp.")
_SERVICE = re.compile(r"\w+_svc\.")
_USER_INFO = re.compile(r"(?<=://)[^/\s@?#'\"]+@")
_CREDENTIALS = re.compile(r"\b(bearer|basic)\s+[\w.~+/=:-]+", re.IGNORECASE)
_EMAIL = re.compile(r"\b\w[\w.+-]*@[\w-]+\.[\w.-]+")
# `customer=...` and `"customer": ...`; but not `lines.0.amount_minor: should be`, which says where.
_NAMED = re.compile(
    r"(?P<name>[\w-]*(?:password|passwd|secret|token|customer|amount)[\w-]*(?:\s*=\s*|[\"']\s*[=:]\s*))"
    r"(?P<value>\"[^\"]*\"|'[^']*'|[^\s,;)}\]]+)",
    re.IGNORECASE,
)
# What none of these is in is nothing of the kind, such as an id or the name of a fact.
_SUSPECT = re.compile(r"[@=\"':]|bearer|basic", re.IGNORECASE)
# Until the end: the row that PostgreSQL shows may have line ends in it.
_DETAIL = re.compile(r"\s*^\s*(?:DETAIL|CONTEXT|QUERY|STATEMENT|LINE \d+):.*", re.MULTILINE | re.DOTALL)
# A token, or something that has a structure; not a sentence.
_QUOTED = re.compile(r"\"(?:[^\"\s]*|[^\"]*[{\[:=@][^\"]*)\"|'(?:[^'\s]*|[^']*[{\[:=@][^']*)'")
_NUMBER = re.compile(r"\d{2,}")
# Of these PostgreSQL quotes the value in its first line.
_DATA_EXCEPTION = "22"


def redacted(text: str) -> str:
    """The text without what reads like a password, a token, a customer, an amount, or a row."""
    text = _DETAIL.sub("", text)
    text = _USER_INFO.sub(f"{HIDDEN}@", text)
    text = _EMAIL.sub(HIDDEN, text)
    text = _CREDENTIALS.sub(rf"\1 {HIDDEN}", text)
    return _NAMED.sub(rf"\g<name>{HIDDEN}", text)


def in_words(error: BaseException) -> str:
    """What an error says, without what was in the row, the body or the URL that it is about."""
    if isinstance(error, psycopg.Error):
        return _of_postgresql(error)
    if isinstance(error, ValidationError):
        # Without the input, which is what somebody sent.
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'body'}: {each['msg']}" for each in faults)
    words = redacted(str(error)).strip()
    return words if _is_careful(error) else _NUMBER.sub(HIDDEN, _QUOTED.sub(HIDDEN, words))


def named(error: BaseException) -> str:
    """The same after the error's class."""
    words = in_words(error)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _of_postgresql(error: psycopg.Error) -> str:
    words = error.diag.message_primary or redacted(str(error))
    if (error.sqlstate or "").startswith(_DATA_EXCEPTION):
        words = re.sub(r"\".*\"", HIDDEN, words, flags=re.DOTALL)
    return redacted(words)


def _is_careful(error: BaseException) -> bool:
    """Whether its class words with care what it says: ours, those of clients, and those of the system."""
    home = f"{type(error).__module__}."
    return isinstance(error, OSError) or home.startswith(_CAREFUL) or _SERVICE.match(home) is not None


def traceback_of(error: BaseException) -> str:
    """As Python shows it, the errors that led to it first; each in words as above."""
    return "".join(_lines(error, MAX_CHAIN)).rstrip()


def _lines(error: BaseException, left: int) -> Iterator[str]:
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and left:
        yield from _lines(before, left - 1)
        yield "\nThis led to:\n\n" if error.__cause__ is not None else "\nMeanwhile this happened:\n\n"
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):\n"
        # Lines of the program, and no values.
        yield from traceback.format_tb(error.__traceback__)
    yield f"{named(error)}\n"
    if isinstance(error, BaseExceptionGroup) and left:
        for each in error.exceptions:
            yield "\nOne of them:\n\n"
            yield from _lines(each, left - 1)


def redact_line(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of structlog: every text of a line that is logged."""
    for name, value in line.items():
        if isinstance(value, str) and name != "timestamp" and _SUSPECT.search(value):
            line[name] = redacted(value)
    return line
