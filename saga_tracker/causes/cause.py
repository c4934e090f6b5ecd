"""Why a saga waits for a service, in words, and what a person can do about it. Pure."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from pydantic import BaseModel

from events.facts.payment import PaymentHeld
from events.service import name_of

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


PREFIX, HELD = "MURMURATION_", name_of(PaymentHeld)
# The settings of parties that are not named after them.
_URLS, _SECRETS = {"mail_server": "SMTP_URL"}, {"mail_server": "SMTP_PASSWORD"}
_TRIES_AGAIN = "{service} tries again by itself, and nothing is done twice"


@dataclass(frozen=True, slots=True)
class Waiting:
    """For whom an order waits, since which fact. `person`: for somebody to decide; `overdue`: given up."""

    order_id: UUID
    service: str
    because_of: str
    person: bool = False
    overdue: bool = False


def act_about(wait: Waiting, cause: Cause | None) -> str:
    """What mends it."""
    service, order_id = wait.service, wait.order_id
    if cause is not None and cause.kind == DEAD_LETTER:
        return (
            f"mend what {service} failed at, then replay dead letter {cause.letter_id}: "
            f"POST /dead-letters/{cause.letter_id}/replay"
        )
    if wait.person:
        return _by_a_person(wait)
    act = _mending(service, cause)
    return f"{act}; then redrive it: POST /sagas/{order_id}/redrive" if wait.overdue else act


def _by_a_person(wait: Waiting) -> str:
    order_id = wait.order_id
    if wait.because_of == HELD:
        return f"approve or reject it at payment: POST /payments/{order_id}/approve or .../reject"
    return (
        "see to it outside and settle it, or have it tried again: "
        f"POST /sagas/{order_id}/settle or .../redrive"
    )


def _mending(service: str, cause: Cause | None) -> str:
    if cause is None:
        return f"wait a moment: {service} is being asked"
    match cause.kind:
        case "call":
            return _about_party(service, cause)
        case "lock":
            return _about_lock(service, cause)
        case "message":
            return (
                f"mend what {service} fails at ({cause.error}): it tries again by itself, "
                f"{cause.of or 'many'} times in all; what it gives up then is a dead letter, to be replayed"
            )
        case "publish":
            return (
                f"start {service} if it does not run, or make room in the queue that is full: "
                "rabbitmqctl list_queues name messages consumers; the fact is published again by itself"
            )
        case kind if kind == BROKER:
            blocked = "free disk or memory of the broker (rabbitmq-diagnostics alarms)"
            return (
                f"{blocked if cause.code == 'blocked' else 'start the broker'}; everything goes on by itself"
            )
        case kind if kind == DATABASE:
            return f"start the database of {service}; everything goes on by itself"
        case kind if kind == SERVICE:
            return _about_service(service, cause)
        case kind if kind == NEXT:
            return f"wait: {service} works and has not come to it; it is sent to it once more when it is late"
        case _:
            return f"see what the log of {service} says of this order"


def _about_service(service: str, cause: Cause) -> str:
    if cause.code == GONE:
        return f"{service}_svc is not there: start it (docker compose up -d {service}, or make up)"
    return (
        f"{service}_svc does not answer: if it is frozen, let it go on (kill -CONT); else restart it, "
        "and see its log"
    )


def _about_lock(service: str, cause: Cause) -> str:
    pid = re.search(r"pid (\d+)", cause.session or "")
    if pid is None:
        return f"end the session that holds the lock in the database of {service}: see pg_stat_activity"
    return (
        f"end the session that holds the lock ({cause.session}): in the database of {service}, "
        f"SELECT pg_terminate_backend({pid[1]})"
    )


def _about_party(service: str, cause: Cause) -> str:
    party = cause.party
    if party is None:
        return f"wait, or see what the log of {service} says of this order"
    name, status, tries = party.replace("_", " "), status_in(cause.code), _TRIES_AGAIN.format(service=service)
    url = PREFIX + _URLS.get(party, f"{party.upper()}_URL")
    secret = PREFIX + _SECRETS.get(party, f"{party.upper()}_TOKEN")
    code = cause.code or ""
    if not code:
        return f"wait: {name} is being asked for the first time; {tries}"
    if status in (401, 403):
        return f"{name} refuses our credentials ({status}): mend {secret} and restart {service}"
    if status == 429:
        return f"{name} is asked too often: have its limit raised, or wait; {tries}"
    if status is not None and status < 500:
        return (
            f"what answers at {url} answers {status} and is not understood: see that it is {name}, and no "
            f"proxy or page in front of it, and that its contract holds; mend it or the URL; {tries}"
        )
    if status is not None:
        return f"{name} fails ({status}): see to it, or tell whoever runs it; {tries}"
    if code.endswith(("_unreachable", "_unavailable")) or "_unavailable_" in code:
        return f"nobody is reached at {url}: start {name}, or mend the URL and restart {service}; {tries}"
    if code.startswith(("gateway_raised_", "outcome_not_accepted")):
        return f"a mistake in {service}, or its database refuses the outcome: see its log; {tries}"
    return f"{name} is slow or hangs: see to it, or tell whoever runs it; {tries}"
