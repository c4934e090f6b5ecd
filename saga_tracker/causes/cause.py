"""Why a saga waits for a service, in words. Pure."""

import re
from datetime import datetime
from typing import Protocol
from uuid import UUID

from pydantic import BaseModel

MAX_REASON_CHARACTERS = 200
NEXT, BROKER, DATABASE, SERVICE, DEAD_LETTER = "unknown", "broker", "database", "service", "dead_letter"
KINDS = ("call", "message", "lock", "publish", BROKER, DATABASE, SERVICE, DEAD_LETTER, NEXT)
SILENT, GONE = "silent", "gone"
# The reason that order_svc gives for an order that was late, and what is in that of the tracker.
TIMED_OUT, LATE = "timed_out", " late: "


class ReportedCause(BaseModel):
    """What a service tries for a saga, with whom, how often so far, and why it has not succeeded yet.

    `kind`: `call`, a request to a party outside; `message`, one that the service fails at; `lock`, a row that
    another session holds; `publish`, a fact that the broker refuses; `broker`, `database` or `service`, which
    are away; `dead_letter`, a message that the service gave up. `since`: when it began; `failed_at`: when the
    last attempts failed.
    """

    kind: str
    what: str
    party: str | None = None
    attempt: int = 0
    of: int | None = None
    error: str | None = None
    next_attempt_at: datetime | None = None
    circuit: str | None = None
    session: str | None = None
    since: datetime
    failed_at: tuple[datetime, ...] = ()


class Cause(ReportedCause):
    """The same as the tracker shows it: `error` in words, `code` as the service has it, at `known_at`."""

    code: str | None = None
    letter_id: UUID | None = None
    known_at: datetime


class ReportedOutside(BaseModel):
    """What a party outside says now of a call for an order that failed; with an `error` it does not say."""

    call: str
    party: str | None = None
    answer: str | None = None
    error: str | None = None

    def __str__(self) -> str:
        what = self.call.replace("_", " ")
        if self.error is not None:
            return f"{what}: {in_words(self.error, self.party)}"
        return f"{what}: {self.answer}, says {_named(self.party)}"


# What the end of a code says, after the name of the party.
_ENDS = (
    (r"unreachable", "{party} cannot be reached"),
    (r"unavailable(?:_(\d+))?", "{party} is not available"),
    (r"postponed_(\d+)", "{party} wants to be asked later ({0})"),
    (r"timeout", "{party} did not answer in time"),
    (r"answer_lost", "the answer of {party} was lost"),
    (r"answer_too_large", "the answer of {party} is too large"),
    (r"answered_(40[13])", "{party} refuses our credentials ({0})"),
    (r"answered_429", "{party} is asked too often (429)"),
    (r"answered_([23]\d\d)", "{party} answered {0} with something else than an answer"),
    (r"answered_(\d+)", "{party} answered {0}"),
    (r"circuit_open", "{party} is left alone for a while, for it failed before"),
)
_WHOLE = (
    (r"gateway_raised_(\w+)", "the gateway to {party} broke: {0}"),
    (r"outcome_not_accepted: (.+)", "the outcome was not accepted: {0}"),
    (r"attempts_exhausted", "all attempts failed"),
    (r"refused", "the broker refuses the fact: a queue is full, or none is bound"),
    (r"blocked", "the broker lets nobody publish"),
    (r"away", "{party} is away"),
    (SILENT, "{party} does not answer"),
    (GONE, "{party} is not there"),
)


def in_words(code: str | None, party: str | None) -> str | None:
    """What a code says; what is none stays as it is, such as the name of an exception."""
    if code is None:
        return None
    for pattern, words in _WHOLE:
        if found := re.fullmatch(pattern, code):
            return words.format(*found.groups(), party=_named(party))
    for pattern, words in _ENDS:
        if found := re.search(rf"(?:^|_){pattern}$", code):
            return words.format(*found.groups(), party=_named(party))
    return code


def status_in(code: str | None) -> int | None:
    """The status of an answer over HTTP that a code tells of."""
    found = re.search(r"_answered_(\d{3})$", code or "")
    return int(found[1]) if found else None


def late(service: str, cause: Cause | None) -> str:
    """Why a service is late, as it is kept: `payment late: provider did not answer in time, 4 attempts`."""
    return f"{service}{LATE}{_short(cause) if cause else 'nobody knows why'}"[:MAX_REASON_CHARACTERS]


class HasReason(Protocol):
    """A fact that gives one."""

    @property
    def reason(self) -> str | None: ...


def in_full(reason: str | None, late: HasReason | None) -> str | None:
    """Why an order turned back; of one that was `late`, who was and why."""
    return as_late(late.reason) if late and reason == TIMED_OUT else reason


def as_late(reason: str | None) -> str:
    """Why an order timed out: an older release only says what was waited for."""
    return reason if reason and LATE in reason else f"late: {reason}"


def _short(cause: Cause) -> str:
    attempts = f", {cause.attempt} attempt{'s' if cause.attempt > 1 else ''}" if cause.attempt else ""
    match cause.kind:
        case "lock":
            return f"what it needs is locked by {cause.session or 'another session of its database'}"
        case "message":
            return f"it fails at {cause.what}, {cause.error}{attempts}"
        case "call" if cause.error is None:
            return f"{cause.what} at {_named(cause.party)} is not answered yet{attempts}"
        case "publish":
            return f"{cause.what}: {cause.error}{attempts}"
        case "unknown":
            return f"it has not answered {cause.what}"
        case _:
            return f"{cause.error or cause.what}{attempts}"


def _named(party: str | None) -> str:
    return (party or "the other side").replace("_", " ")
