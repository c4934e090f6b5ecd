"""The shapes in which dead letters are shown and acted upon over HTTP."""

import codecs
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from events.facts.base import Note
from events.http.authentication import SignedAct
from saga_tracker.dead_letters.dead_letter import (
    MAX_NAME_CHARACTERS,
    MAX_REASON_CHARACTERS,
    DeadLetterKind,
    DeadLetterState,
    from_text,
    shown,
)

# More of a body than this is not shown; it is replayed whole all the same.
MAX_SHOWN_BYTES = 1_000_000
MAX_SELECTED = 1_000


class Act(SignedAct):
    """If they say so, why."""

    note: Note | None = None


class NotedAct(SignedAct):
    """Why it is done."""

    note: Note


class Selection(Act):
    """Either some dead letters by their ids, or the open ones of a service and a reason (and a fact)."""

    ids: Annotated[list[UUID], Field(min_length=1, max_length=MAX_SELECTED)] | None = None
    service: Annotated[str, Field(max_length=MAX_NAME_CHARACTERS)] | None = None
    reason: Annotated[str, Field(max_length=MAX_REASON_CHARACTERS)] | None = None
    wire_name: Annotated[str, Field(max_length=MAX_NAME_CHARACTERS)] | None = None


class DeadLetterView(BaseModel):
    """A dead letter. `first_at` and `last_at` are of the attempts; a case's are when it was published.

    `kind`: `unusable`, a service could not use it; `case`, a service failed for good and waits for a person;
    `undelivered`, the broker gave up; `stray`, nothing says why it is there.
    """

    letter_id: UUID
    service: str
    kind: DeadLetterKind
    reason: str
    detail: str
    state: DeadLetterState
    state_at: datetime
    arrived_at: datetime
    first_at: datetime | None
    last_at: datetime | None
    attempts: int | None
    message_id: str | None
    wire_name: str | None
    stated_by: str | None
    order_id: UUID | None
    replay_of: UUID | None


class DeadLetterPage(BaseModel):
    """Some dead letters, the last to arrive first; `next_cursor` asks for those after them."""

    dead_letters: list[DeadLetterView]
    next_cursor: str | None


class GroupView(BaseModel):
    """Dead letters of one service, reason and fact: how many there ever were, and how many are open."""

    service: str
    reason: str
    wire_name: str | None
    open: int
    dead_letters: int
    first_at: datetime
    last_at: datetime


class Groups(BaseModel):
    """The groups with most open dead letters first."""

    groups: list[GroupView]


class AuditView(BaseModel):
    """One act: who did what, when, and why. `case_id` is the failure that it answered.

    `role` and `signed_in_by` are those of who did it at that time; null of what is older.
    """

    entry_id: int
    at: datetime
    by: str
    role: str | None
    signed_in_by: str | None
    action: str
    note: str | None
    service: str | None
    order_id: UUID | None
    letter_id: UUID | None
    case_id: UUID | None


class AuditPage(BaseModel):
    """Entries, newest first. `next_before` asks for those before them."""

    entries: list[AuditView]
    next_before: int | None


class HistoryView(BaseModel):
    """A dead letter's attempts, what was done about it, and those as which it came back when replayed."""

    attempts: int | None
    first_at: datetime | None
    last_at: datetime | None
    came_back_as: list[UUID]
    audit: list[AuditView]


class WholeDeadLetter(DeadLetterView):
    """A dead letter with the message in it. A long body is cut, and says so."""

    routing_key: str
    properties: dict[str, Any]
    headers: dict[str, Any]
    body: str
    body_encoding: Literal["text", "base64"]
    body_bytes: int
    body_cut: bool
    history: HistoryView


class ReplayOutcome(BaseModel):
    """How many were replayed now; how many were not, for they were replayed, discarded or answered before.

    `missing` are ids that no dead letter has. `remaining` are open dead letters of the group that are left
    for another request.
    """

    replayed: int
    skipped: int
    missing: list[UUID]
    remaining: int


def whole_dead_letter(
    row: Mapping[str, Any], came_back_as: list[UUID], entries: Sequence[Mapping[str, Any]]
) -> WholeDeadLetter:
    """A row with its body, or the beginning of it, and its entries in the audit."""
    properties: dict[str, Any] = shown(from_text(row["properties"]))
    headers = properties.pop("headers")
    cut = len(row["body"]) < row["body_bytes"]
    body, encoding = _shown_body(row["body"], cut=cut)
    return WholeDeadLetter(
        **{name: row[name] for name in (*DeadLetterView.model_fields, "routing_key", "body_bytes")},
        properties=properties,
        headers=headers,
        body=body,
        body_encoding=encoding,
        body_cut=cut,
        history=HistoryView(
            attempts=row["attempts"],
            first_at=row["first_at"],
            last_at=row["last_at"],
            came_back_as=came_back_as,
            audit=[AuditView(**entry) for entry in entries],
        ),
    )


def _shown_body(body: bytes, *, cut: bool) -> tuple[str, Literal["text", "base64"]]:
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(body, final=not cut), "text"
    except UnicodeDecodeError:
        return b64encode(body).decode(), "base64"
