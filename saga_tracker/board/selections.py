"""The pages of selections of dead letters: frozen, previewed, started, watched, paused or stopped."""

from typing import Any, Literal
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from events.http.authentication import VIEWER
from events.http.problems import Problem, not_valid
from events.http.tokens import Role
from saga_tracker.board.acts import confirmed, forms, signed_form
from saga_tracker.board.render import PageRoute, answer, field_of, rendered
from saga_tracker.dead_letters import selections
from saga_tracker.dead_letters.api import Tracker
from saga_tracker.dead_letters.queries import DeadLetterFilter
from saga_tracker.dead_letters.selections import SelectionState
from saga_tracker.steps import SERVICES

router = APIRouter(include_in_schema=False, route_class=PageRoute, dependencies=[VIEWER])

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
async def see(selection_id: UUID, tracker: Tracker) -> HTMLResponse:
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
