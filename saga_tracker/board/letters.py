"""The pages of dead letters: groups and letters to choose from, one letter, and a message that is edited.

What is in a letter is shown to who may act alone, and never a payment token. A selection of letters is
frozen, previewed, started, watched, paused or stopped.
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from events.http.authentication import VIEWER
from events.http.problems import Problem, not_valid
from events.http.tokens import Role
from saga_tracker.board import acts
from saga_tracker.board.acts import back, confirmed, forms, signed_form
from saga_tracker.board.render import PageRoute, answer, field_of, rendered
from saga_tracker.dead_letters import api as dead_letters_api
from saga_tracker.dead_letters import repository as dead_letter_queries
from saga_tracker.dead_letters import selections
from saga_tracker.dead_letters.api import Reason, ServiceName, Tracker, WireName
from saga_tracker.dead_letters.dead_letter import DeadLetterKind, DeadLetterState
from saga_tracker.dead_letters.replay import NotSent, edited_id, moves_money, replay_edited
from saga_tracker.dead_letters.repository import DeadLetterFilter
from saga_tracker.dead_letters.selections import SelectionState
from saga_tracker.dead_letters.views import (
    MAX_SHOWN_BYTES,
    DeadLetterPage,
    DeadLetterView,
    Groups,
    WholeDeadLetter,
    whole_dead_letter,
)
from saga_tracker.http import audit
from saga_tracker.http.audit import Proposal, standing
from saga_tracker.http.views import Cursor
from saga_tracker.steps import SERVICES

PAGE_SIZE = 50
HIDDEN = "(hidden)"
_TOKEN = re.compile(r'("payment_token"\s*:\s*)"((?:[^"\\]|\\.)*)"')

router = APIRouter(include_in_schema=False, route_class=PageRoute, dependencies=[VIEWER])


@router.get("/ui/dead-letters")
async def dead_letters(
    tracker: Tracker,
    request: Request,
    service: ServiceName = None,
    reason: Reason = None,
    wire_name: WireName = None,
    order_id: UUID | None = None,
    state: DeadLetterState = DeadLetterState.OPEN,
    cursor: Cursor = None,
) -> HTMLResponse:
    """Dead letters by service, reason and fact; and those of one group or of all, the newest first."""
    groups = await dead_letters_api.groups(tracker)
    page = await dead_letters_api.find(
        tracker, service, reason, wire_name, order_id, state, limit=PAGE_SIZE, cursor=cursor
    )
    asked = {name: value for name, value in request.query_params.items() if name not in ("cursor", "state")}
    return answer(dead_letters_page(groups, page, asked, state, first=cursor is None))


def dead_letters_page(
    groups: Groups,
    page: DeadLetterPage,
    asked: Mapping[str, str],
    chosen: DeadLetterState,
    *,
    first: bool = True,
) -> str:
    """Groups, then dead letters in one state, to choose from."""
    return rendered(
        "dead_letters",
        title="Dead letters",
        path="/ui/dead-letters",
        topics=("letters",) if first else (),
        groups=groups,
        page=page,
        asked=asked,
        chosen=chosen,
        states=list(DeadLetterState),
    )


# --- One letter


@router.get("/ui/dead-letters/{letter_id}")
async def see_letter(letter_id: UUID, tracker: Tracker, request: Request, done: str = "") -> HTMLResponse:
    """One letter without what is in it: where it came from, what was done about it, what can be done."""
    whole = await _whole(tracker, letter_id)
    return answer(letter_page(whole, base_url=str(request.base_url), done=done))


@forms.post("/ui/dead-letters/{letter_id}")
async def open_letter(letter_id: UUID, tracker: Tracker, request: Request) -> HTMLResponse:
    """The same with what is in it, for who may act; and what an edited one would change."""
    _, form = await signed_form(request, Role.OPERATOR)
    whole = await _whole(tracker, letter_id)
    text = masked(whole.body) if whole.body_encoding == "text" else whole.body
    edited = form.get("body", [text])[0].replace("\r\n", "\n")
    return answer(
        letter_page(
            whole,
            base_url=str(request.base_url),
            text=text,
            edited=edited,
            diff=diff(text, edited),
            proposed=_shown(letter_id, text, await _proposed(tracker, letter_id)),
            takes_approver=_takes_approver(whole, edited),
        )
    )


@dataclass(frozen=True, slots=True)
class ProposalView:
    """An edit that somebody proposed: what it changes, and the id under which it would be sent."""

    by: str
    expires_at: datetime
    message_id: UUID
    diff: list[tuple[str, str]]


def _shown(letter_id: UUID, text: str, proposed: Proposal | None) -> ProposalView | None:
    if proposed is None or proposed.content is None:
        return None
    message_id = edited_id(letter_id, proposed.content)
    changes = diff(text, masked(proposed.content.decode()))
    return ProposalView(proposed.by, proposed.expires_at, message_id, changes)


async def _proposed(tracker: dead_letters_api.Desk, letter_id: UUID) -> Proposal | None:
    async with tracker.database.transaction() as connection:
        return await standing(connection, "edit_proposed", letter_id)


def _takes_approver(whole: WholeDeadLetter, edited: str) -> bool:
    return moves_money(whole.service, whole.body.encode(), edited.encode())


def letter_page(
    whole: WholeDeadLetter,
    *,
    base_url: str,
    text: str | None = None,
    edited: str = "",
    diff: Sequence[tuple[str, str]] = (),
    done: str = "",
    proposed: ProposalView | None = None,
    takes_approver: bool = False,
) -> str:
    """A letter; `text` is what is in it, where that may be seen, `proposed` an edit of somebody's."""
    view = DeadLetterView(**{name: getattr(whole, name) for name in DeadLetterView.model_fields})
    is_open = whole.state is DeadLetterState.OPEN
    return rendered(
        "letter",
        title=f"Dead letter {str(whole.letter_id)[:8]}",
        path="/ui/dead-letters",
        topics=("letters",) if text is None else (),
        letter=whole,
        entries=whole.history.audit,
        acts=acts.on_letter(view, base_url) if is_open else [],
        can_edit=is_open and whole.kind is not DeadLetterKind.CASE and whole.body_encoding == "text",
        text=text,
        edited=edited,
        diff=diff,
        done=acts.DONE.get(done),
        proposed=proposed,
        takes_approver=takes_approver,
    )


@forms.post("/ui/dead-letters/{letter_id}/edit")
async def edit(letter_id: UUID, tracker: Tracker, request: Request) -> Response:
    """Send an edited message to its service under a new id; the original is kept, and counts as replayed."""
    signed, form = await signed_form(request, Role.OPERATOR)
    confirmed(form)
    act = signed.noted
    whole = await _whole(tracker, letter_id)
    if whole.state is not DeadLetterState.OPEN or whole.kind is DeadLetterKind.CASE:
        raise Problem(409, "only the message of an open letter can be edited")
    if whole.body_cut or whole.body_encoding != "text":
        raise Problem(409, "what is in it is too long, or no text: it cannot be edited here")
    body = await _edited(tracker, whole, form)
    if _takes_approver(whole, body) and not signed.who.may([Role.APPROVER]):
        raise Problem(
            403, f"what moves money takes the role approver; {signed.who.name} is {signed.who.role}"
        )
    try:
        waits = await replay_edited(
            tracker.settings, tracker.database, letter_id, body.encode(), who=signed.who, note=act.note
        )
    except NotSent as error:
        raise Problem(503, f"the broker did not confirm: {error}", headers={"Retry-After": "2"}) from error
    finally:
        tracker.publisher.look_in_table()
    return back(f"/ui/dead-letters/{letter_id}", "edit" if waits is None else "propose_edit")


async def _edited(
    tracker: dead_letters_api.Desk, whole: WholeDeadLetter, form: Mapping[str, list[str]]
) -> str:
    """What is to be sent: what somebody else proposed, or what is in the form. Raises Problem."""
    if chosen := field_of(form, "proposed"):
        proposed = await _proposed(tracker, whole.letter_id)
        content = proposed.content if proposed else None
        if content is None or str(edited_id(whole.letter_id, content)) != chosen:
            raise Problem(409, "that is not proposed any more: look at the letter once more")
        return content.decode()
    body = unmasked(form.get("body", [""])[0].replace("\r\n", "\n"), whole.body)
    _check(body)
    if body == whole.body:
        raise not_valid("body", "nothing was edited: replay it as it is")
    return body


async def _whole(tracker: dead_letters_api.Desk, letter_id: UUID) -> WholeDeadLetter:
    async with tracker.database.transaction() as connection:
        found = await dead_letter_queries.dead_letter(connection, letter_id, MAX_SHOWN_BYTES)
        entries = await audit.of_dead_letter(connection, letter_id, PAGE_SIZE)
    if found is None:
        raise Problem(404, f"there is no dead letter {letter_id}")
    return whole_dead_letter(*found, entries)


def _check(body: str) -> None:
    try:
        json.loads(body)
    except ValueError as error:
        raise not_valid("body", f"it is no JSON: {error}") from None


def masked(body: str) -> str:
    """What is in a letter, without a payment token, and on several lines where it is JSON."""
    try:
        value = json.loads(body)
    except ValueError:
        return _TOKEN.sub(rf'\1"{HIDDEN}"', body)
    return _TOKEN.sub(rf'\1"{HIDDEN}"', json.dumps(value, indent=2, ensure_ascii=False))


def unmasked(edited: str, original: str) -> str:
    """What was edited, with the payment token of the original where it was hidden."""
    found = _TOKEN.search(original)
    if found is None:
        return edited
    return _TOKEN.sub(lambda match: f'{match[1]}"{found[2]}"' if match[2] == HIDDEN else match[0], edited)


def diff(before: str, after: str) -> list[tuple[str, str]]:
    """What an edit changes, line by line: how each line is shown, and the line."""
    looks = {"+": "added", "-": "removed", "@": "quiet"}
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=2)
    return [(looks.get(line[:1], ""), line) for line in list(lines)[2:]]


_MOVES = {
    "pause": SelectionState.PAUSED,
    "continue": SelectionState.RUNNING,
    "stop": SelectionState.STOPPED,
}


@forms.post("/ui/selections")
async def freeze(tracker: Tracker, request: Request) -> Response:
    """Freeze the letters that were chosen, or all open ones of the group that was looked at."""
    signed, form = await signed_form(request, Role.OPERATOR)
    act = signed.noted
    given = {name: field_of(form, name) or None for name in ("service", "reason", "wire_name")}
    if given["service"] is not None and given["service"] not in SERVICES:
        raise not_valid("service", f"no service is named {given['service']!r}")
    letter_ids = None if field_of(form, "of") == "group" else _ids(form.get("id", []))
    named = ", ".join(str(value) for value in given.values() if value) or "all groups"
    words = f"open letters of {named}" if letter_ids is None else f"{len(letter_ids)} chosen letters"
    async with tracker.database.transaction() as connection:
        selection_id, count = await selections.freeze(
            connection,
            letter_ids,
            DeadLetterFilter(given["service"], given["reason"], given["wire_name"]),
            tracker.settings.selection_letters,
            by=signed.who.name,
            of=f"{words}: {act.note}",
        )
        if not count:
            raise not_valid("id", "choose at least one letter")
    return RedirectResponse(f"/ui/selections/{selection_id}", 303)


def _ids(given: list[str]) -> list[UUID]:
    try:
        return [UUID(each) for each in given]
    except ValueError:
        raise not_valid("id", "that is no letter's id") from None


@router.get("/ui/selections")
async def listed(tracker: Tracker) -> HTMLResponse:
    """The selections that were made last."""
    async with tracker.database.transaction() as connection:
        rows = await selections.last_made(connection)
    return answer(selections_page(rows))


def selections_page(rows: list[dict[str, Any]]) -> str:
    """Selections, the newest first."""
    return rendered(
        "selections",
        title="Selections of dead letters",
        path="/ui/dead-letters",
        topics=("letters",),
        rows=rows,
    )


@router.get("/ui/selections/{selection_id}")
async def see_selection(selection_id: UUID, tracker: Tracker) -> HTMLResponse:
    """What is in a selection, how far it has come, and what can be done with it."""
    async with tracker.database.transaction() as connection:
        found = await selections.see(connection, selection_id)
    if found is None:
        raise Problem(404, f"there is no selection {selection_id}")
    return answer(selection_page(*found))


def selection_page(row: dict[str, Any], groups: list[dict[str, Any]], progress: dict[str, int]) -> str:
    """A selection."""
    return rendered(
        "selection",
        title="Selection of dead letters",
        path="/ui/dead-letters",
        topics=("letters", "audit"),
        selection=row,
        groups=groups,
        progress=progress,
        total=sum(progress.values()),
    )


@forms.post("/ui/selections/{selection_id}/{verb}")
async def act(
    selection_id: UUID,
    verb: Literal["replay", "discard", "pause", "continue", "stop"],
    tracker: Tracker,
    request: Request,
) -> Response:
    """Start it, at a pace; or pause, continue or stop it. What is done of it stays done."""
    signed, form = await signed_form(request, Role.OPERATOR)
    async with tracker.database.transaction() as connection:
        if verb in ("replay", "discard"):
            confirmed(form)
            noted, pace = (
                signed.noted,
                _pace(field_of(form, "per_second"), tracker.settings.replay_batch_size),
            )
            moved = await selections.start(
                connection, selection_id, verb, who=signed.who, note=noted.note, per_second=pace
            )
        else:
            moved = await selections.move(connection, selection_id, _MOVES[verb])
    if not moved:
        raise Problem(409, f"it does not stand where one can {verb} it: look at it again")
    return RedirectResponse(f"/ui/selections/{selection_id}", 303)


def _pace(text: str, most: int) -> int:
    if not text.isdigit() or not 1 <= int(text) <= most:
        raise not_valid("per_second", f"a pace is between 1 and {most} letters a second")
    return int(text)
