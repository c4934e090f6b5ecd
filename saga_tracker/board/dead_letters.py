"""Dead letters, the audit and what a person can do, as parts of pages. What is in a letter is not shown."""

import json
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from urllib.parse import urlencode

from saga_tracker.board.markup import instant, table
from saga_tracker.dead_letters.dead_letter import LetterKind, LetterState
from saga_tracker.dead_letters.views import AuditView, Groups, GroupView, LetterPage, LetterView
from saga_tracker.http.views import SagaView
from saga_tracker.projection import State

# Of one order's letters and audit entries, the last are shown.
MAX_OF_ORDER = 50
_PATH = "/ui/dead-letters"


def letters_page(
    groups: Groups, page: LetterPage, asked: Mapping[str, str], state: LetterState, *, base_url: str
) -> str:
    """Groups, then letters in one state, and how to act on them."""
    states = "".join(
        f'<a href="{_link({**asked, "state": each.value})}">{f"<b>{each}</b>" if each is state else each}</a>'
        for each in LetterState
    )
    nav = f'<nav><a href="/">all sagas</a><a href="{_PATH}">all letters</a>{states}</nav>'
    older = ""
    if page.next_cursor:
        link = _link({**asked, "state": state.value, "cursor": page.next_cursor})
        older = f'<p><a href="{link}">older</a></p>'
    acts: list[str] = []
    if page.letters and state is LetterState.OPEN:
        letter = page.letters[0]
        group = {"by": "you", "service": letter.service, "reason": letter.reason}
        acts = [
            _curl(base_url, f"dead-letters/{letter.letter_id}", None),
            *_acts_on(letter, base_url),
            _curl(base_url, "dead-letters/replay", group),
        ]
    heads = ("Service", "Reason", "Fact", "Open", "Ever", "Last")
    rows = map(_group, groups.groups)
    return nav + table(heads, rows) + f"<h1>{state.value}</h1>" + _letters(page.letters) + older + _how(acts)


def by_hand(
    saga: SagaView, letters: Sequence[LetterView], entries: Sequence[AuditView], *, base_url: str
) -> str:
    """A saga's letters, what was done about it, and what can be done; nothing where there is none of it."""
    parts: list[str] = []
    if letters:
        parts.append(f"<h1>Dead letters</h1>{_letters(letters)}")
    if entries:
        heads = ("When", "Who", "What", "Service", "Why")
        parts.append(f"<h1>Audit</h1>{table(heads, map(_entry, entries))}")
    acts: list[str] = []
    if saga.state is State.NEEDS_MANUAL:
        act = {"by": "you", "note": "why"}
        acts = [_curl(base_url, f"sagas/{saga.order_id}/{verb}", act) for verb in ("redrive", "settle")]
    for letter in letters:
        # A case is answered by way of the saga where that waits for it.
        if letter.state is LetterState.OPEN and (letter.kind is not LetterKind.CASE or not acts):
            acts += _acts_on(letter, base_url)
    return "".join(parts) + _how(acts)


def _group(group: GroupView) -> Sequence[str]:
    asked = {"service": group.service, "reason": group.reason}
    if group.wire_name is not None:
        asked["wire_name"] = group.wire_name
    return (
        escape(group.service),
        f'<a href="{_link(asked)}">{escape(group.reason)}</a>',
        escape(group.wire_name or ""),
        str(group.open),
        str(group.letters),
        instant(group.last_at),
    )


def _letters(letters: Sequence[LetterView]) -> str:
    heads = ("Letter", "Service", "Reason", "Fact", "Order", "State", "Tried", "Last")
    return table(heads, map(_letter, letters))


def _letter(letter: LetterView) -> Sequence[str]:
    order = ""
    if letter.order_id is not None:
        order = f'<a href="/ui/sagas/{letter.order_id}"><code>{letter.order_id}</code></a>'
    return (
        f"<code>{letter.letter_id}</code>",
        escape(letter.service),
        f"{escape(letter.reason)}<details class='quiet'><summary>{letter.kind.value}</summary>"
        f"<pre>{escape(letter.detail)}</pre></details>",
        escape(letter.wire_name or ""),
        order,
        letter.state.value,
        f"{letter.attempts} times" if letter.attempts else "",
        instant(letter.last_at or letter.arrived_at),
    )


def _entry(entry: AuditView) -> Sequence[str]:
    return (
        instant(entry.at),
        escape(entry.by),
        escape(entry.action.replace("_", " ")),
        escape(entry.service or ""),
        escape(entry.note or ""),
    )


def _acts_on(letter: LetterView, base_url: str) -> list[str]:
    path, act = f"dead-letters/{letter.letter_id}", {"by": "you", "note": "why"}
    return [_curl(base_url, f"{path}/{verb}", act) for verb in ("replay", "discard")]


def _how(acts: Sequence[str]) -> str:
    lines = "\n".join(acts)
    return f"<h1>What can be done</h1><pre>{lines}</pre>" if lines else ""


def _curl(base_url: str, path: str, body: Mapping[str, str] | None) -> str:
    """A command line; the token comes from its environment."""
    words = ["curl", '-H "Authorization: Bearer $MURMURATION_ADMIN_TOKEN"']
    if body is not None:
        words += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(json.dumps(body))}"]
    return escape(" ".join([*words, shlex.quote(base_url + path)]))


def _link(asked: Mapping[str, str]) -> str:
    return escape(f"{_PATH}?{urlencode(asked)}")
