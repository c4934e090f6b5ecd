"""What a person can do about a saga that waits, as a sentence: chosen by its cause. Pure."""

import re
from dataclasses import dataclass
from uuid import UUID

from events.facts.payment import PaymentHeld
from events.service import name_of
from saga_tracker.causes.cause import BROKER, DATABASE, DEAD_LETTER, GONE, NEXT, SERVICE, Cause, status_in

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
