"""What can be done about a saga, a dead letter or a manual case now; and doing it, when a form says so.

Each act is what the API does too: the same checks, the same entry in the audit. A form says before what will
happen, and is sent only with that confirmed.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Literal
from uuid import UUID

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar
from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError

from events.facts.base import in_words
from events.http.authentication import ACTING_HEADER, PUBLIC, Authentication, Identity
from events.http.problems import Problem, not_valid
from events.http.sessions import check_csrf, signed_in
from events.http.tokens import Role
from events.outbound.http_party import bounded_body
from saga_tracker.board.render import PageRoute, field_of, form_of
from saga_tracker.dead_letters import api as dead_letters_api
from saga_tracker.dead_letters.dead_letter import DeadLetterKind, DeadLetterState
from saga_tracker.dead_letters.views import Act, DeadLetterView, NotedAct
from saga_tracker.http import audit, manual_api
from saga_tracker.http.audit import Entry
from saga_tracker.http.views import MASKED, FactView, SagaView
from saga_tracker.projection import State
from saga_tracker.settings import TrackerSettings

MAX_ANSWER_BYTES = 16_384
CONFIRMED = "yes"
DONE = {
    "redrive": "Asked for. What comes of it shows here by itself.",
    "settle": "The service learns that it was settled outside.",
    "propose": "It is proposed: it is settled once another approver settles it, too.",
    "approve": "The payment goes ahead.",
    "reject": "The payment is refused; the order is cancelled.",
    "cancel": "The order is withdrawn; what was done for it is undone.",
    "replay": "The letter was sent to its service once more.",
    "discard": "The letter is discarded. It is kept.",
    "edit": "The edited message was sent under a new id. The original is kept.",
    "propose_edit": "It is proposed: it is sent once another approver opens the letter and sends it, too.",
    "claim": "The case is yours.",
    "unclaim": "The case is free for others.",
    "note": "Noted in the audit.",
}
_CANCELLABLE = (
    State.PENDING_INVENTORY,
    State.PENDING_PAYMENT,
    State.AWAITING_APPROVAL,
    State.PENDING_SHIPMENT,
)

# For whoever a form says they are: `signed_form` looks at that.
forms = APIRouter(include_in_schema=False, route_class=PageRoute, dependencies=[PUBLIC])


# --- What can be done


@dataclass(frozen=True, slots=True)
class ActView:
    """Something that can be done now: what the button says, what will happen, and the same as a command."""

    verb: str
    about: str
    title: str
    says: str
    action: str
    curl: str
    danger: bool = False
    # Another service is asked, which takes a token of its own for it.
    with_token: bool = False


def on_saga(
    saga: SagaView,
    dead_letters: Sequence[DeadLetterView],
    base_url: str,
    ordered: "Ordered | None" = None,
    *,
    acts_for: bool = False,
) -> list[ActView]:
    """What a person can do about a saga as it stands, the most urgent first.

    `acts_for`: the tracker can act at services for who signed in here; else these ask for a token.
    """
    found: list[ActView] = []
    if saga.state is State.NEEDS_MANUAL:
        found += _on_manual(saga, base_url)
    if saga.state is State.AWAITING_APPROVAL:
        found += _on_held(saga, ordered)
    for letter in dead_letters:
        # A case is answered by way of the saga where that waits for it.
        by_saga = saga.state is State.NEEDS_MANUAL and letter.kind is DeadLetterKind.CASE
        if letter.state is DeadLetterState.OPEN and not by_saga:
            found += on_letter(letter, base_url)
    if saga.state in _CANCELLABLE:
        says = "The order is withdrawn: stock, payment and shipment are undone as far as they came. If it is"
        says += " confirmed meanwhile, nothing happens."
        found.append(
            _on_order(saga.order_id, "cancel", "Cancel the order", says, "$ORDER_URL/orders", danger=True)
        )
    return [replace(act, with_token=act.with_token and not acts_for) for act in found]


def _on_manual(saga: SagaView, base_url: str) -> list[ActView]:
    overdue = sorted({wait.service for wait in saga.waits if wait.overdue_at and not wait.person})
    failed = sorted({wait.service for wait in saga.waits if wait.person})
    return on_case(saga.order_id, failed, overdue, saga.reason, base_url)


def on_case(
    order_id: UUID, failed: Sequence[str], overdue: Sequence[str], reason: str | None, base_url: str
) -> list[ActView]:
    """What can be done about a saga that needs a person: of whom something failed, and who is overdue."""
    again = [f"{name} tries again what failed" for name in failed]
    again += [f"{name} is sent once more the fact that it has not answered" for name in overdue]
    says = f"{'; '.join(again) or 'Whoever failed tries again'}. Its inbox makes a repetition harmless."
    found = [_on_order(order_id, "redrive", "Redrive", says, f"{base_url}sagas")]
    if failed or not overdue:
        says = f"{', '.join(failed) or 'The service'} learns that a person has done outside what failed"
        says += f" ({reason or 'it'}); the saga goes on as if it had succeeded. Nothing is done outside."
        found.append(_on_order(order_id, "settle", "Settle", says, f"{base_url}sagas", danger=True))
    return found


def _on_held(saga: SagaView, ordered: "Ordered | None") -> list[ActView]:
    amount = in_words(ordered.amount_minor, ordered.currency) if ordered else "the payment"
    limit = ""
    if ordered and ordered.limit_minor is not None:
        limit = f", which is above the limit of {in_words(ordered.limit_minor, ordered.currency)}"
    money = "$PAYMENT_URL/payments"
    return [
        _on_order(saga.order_id, "approve", f"Approve {amount}", f"{amount}{limit}, is charged now.", money),
        _on_order(
            saga.order_id,
            "reject",
            f"Reject {amount}",
            f"{amount}{limit}, is not charged; the stock is released and the order cancelled.",
            money,
            danger=True,
        ),
    ]


def _on_order(
    order_id: UUID, verb: str, title: str, says: str, base: str, *, danger: bool = False
) -> ActView:
    action = f"/ui/sagas/{order_id}/{verb}"
    command = curl(f"{base}/{order_id}/{verb}", None if verb == "cancel" else _SIGNED)
    with_token = verb in ("approve", "reject", "cancel")
    return ActView(verb, str(order_id), title, says, action, command, danger, with_token)


def on_letter(letter: DeadLetterView, base_url: str) -> list[ActView]:
    """What can be done about an open dead letter."""
    about, path = str(letter.letter_id), f"{base_url}dead-letters/{letter.letter_id}"
    short = about[:8]
    if letter.kind is DeadLetterKind.CASE:
        says = f"{letter.service} tries again what failed."
    else:
        says = (
            f"The message is sent to {letter.service} alone once more. If it fails again, a new letter comes."
        )
    action = f"/ui/dead-letters/{letter.letter_id}"
    return [
        ActView("replay", about, f"Replay letter {short}", says, f"{action}/replay", curl(f"{path}/replay")),
        ActView(
            "discard",
            about,
            f"Discard letter {short}",
            "Nothing is to be done about it. It is kept, and can no longer be replayed.",
            f"{action}/discard",
            curl(f"{path}/discard"),
            danger=True,
        ),
    ]


_SIGNED = {"note": "why"}


def curl(url: str, body: Mapping[str, str] | None = _SIGNED) -> str:
    """A command line, the verb first; the token and the services' addresses come from its environment."""
    words = ["curl -X POST", f'"{url}"' if url.startswith("$") else shlex.quote(url)]
    words.append('-H "Authorization: Bearer $TOKEN"')
    if body is not None:
        words += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(json.dumps(body))}"]
    return " ".join(words)


@dataclass(frozen=True, slots=True)
class Ordered:
    """What was ordered, as far as the facts say; `limit_minor`: above it, a person had to approve."""

    amount_minor: int
    currency: str
    lines: list[dict[str, Any]]
    limit_minor: int | None
    customer: str


def ordered(facts: Sequence[FactView]) -> Ordered | None:
    """From order.created, and the limit above which a person had to approve it."""
    created = next((fact.body for fact in facts if fact.name == "order.created"), {})
    held = next((fact.body for fact in facts if fact.name == "payment.held"), {})
    lines, currency, limit = created.get("lines"), created.get("currency"), held.get("limit_minor")
    if not isinstance(lines, list) or not isinstance(currency, str):
        return None
    amounts = [line.get("amount_minor") for line in lines if isinstance(line, dict)]
    known = [amount for amount in amounts if isinstance(amount, int)]
    # Where the role of whoever looks does not see amounts, there is none to show.
    if currency == MASKED or len(known) < len(lines):
        return None
    return Ordered(
        amount_minor=sum(known),
        currency=currency,
        lines=lines,
        limit_minor=limit if isinstance(limit, int) else None,
        customer=str(created.get("customer", "")),
    )


# --- Doing it


@dataclass(frozen=True, slots=True)
class Signed:
    """Who acts and why, as a form says; `token` is what they are known by, for services that they ask."""

    who: Identity
    note: str
    token: str

    @property
    def noted(self) -> NotedAct:
        try:
            return NotedAct(note=self.note)
        except ValidationError as error:
            raise not_valid(str(error.errors()[0]["loc"][0]), error.errors()[0]["msg"]) from None


async def signed_form(request: Request, role: Role) -> tuple[Signed, Mapping[str, list[str]]]:
    """A form whose sender has this role. Raises Problem for whoever has not."""
    form = await form_of(request)
    token = field_of(form, "token")
    session = signed_in(request)
    if session is not None:
        # Also with a token of its own: it is that page's form in any case.
        check_csrf(request, field_of(form, "csrf_token"))
    authentication: Authentication = request.app.state.authentication
    who = authentication.admit([role], token or None, Identity(*session) if session else None)
    return Signed(who, field_of(form, "note"), token), form


def confirmed(form: Mapping[str, list[str]]) -> None:
    """Raises Problem for a form whose sender did not say that this is to happen."""
    if field_of(form, "confirm") != CONFIRMED:
        raise not_valid("confirm", "say that this is to happen: tick the box above the button")


SagaVerb = Literal["redrive", "settle", "approve", "reject", "cancel"]
# What moves money takes more.
_ROLES: dict[SagaVerb, Role] = {
    "redrive": Role.OPERATOR,
    "settle": Role.APPROVER,
    "approve": Role.APPROVER,
    "reject": Role.APPROVER,
    "cancel": Role.OPERATOR,
}


@forms.post("/ui/sagas/{order_id}/{verb}")
async def act_on_saga(
    order_id: UUID, verb: SagaVerb, tracker: dead_letters_api.Tracker, request: Request
) -> Response:
    """Do what a form on the saga's page says."""
    signed, form = await signed_form(request, _ROLES[verb])
    confirmed(form)
    match verb:
        case "redrive":
            await manual_api.redrive_saga(order_id, signed.noted, signed.who, tracker)
        case "settle":
            outcome = await manual_api.settle_saga(order_id, signed.noted, signed.who, tracker)
            if outcome.proposed is not None:
                return back(f"/ui/sagas/{order_id}", "propose")
        case "approve" | "reject":
            body = signed.noted.model_dump()
            await ask(request, "payment", f"/payments/{order_id}/{verb}", signed, body)
        case "cancel":
            note = signed.noted.note
            await ask(request, "order", f"/orders/{order_id}/cancel", signed)
            # What people decide at payment its facts tell; of a cancellation they tell nobody's name.
            async with tracker.database.transaction() as connection:
                await audit.enter(connection, [Entry.of(signed.who, "cancelled", note, "order", order_id)])
    return back(f"/ui/sagas/{order_id}", verb)


@forms.post("/ui/dead-letters/{letter_id}/replay")
async def replay_letter(letter_id: UUID, tracker: dead_letters_api.Tracker, request: Request) -> Response:
    """Replay one dead letter, as a form says."""
    signed, form = await signed_form(request, Role.OPERATOR)
    confirmed(form)
    await dead_letters_api.replay_one(letter_id, Act(note=signed.noted.note), signed.who, tracker)
    return back(f"/ui/dead-letters/{letter_id}", "replay")


@forms.post("/ui/dead-letters/{letter_id}/discard")
async def discard_letter(letter_id: UUID, tracker: dead_letters_api.Tracker, request: Request) -> Response:
    """Discard one dead letter, as a form says."""
    signed, form = await signed_form(request, Role.OPERATOR)
    confirmed(form)
    await dead_letters_api.discard(letter_id, signed.noted, signed.who, tracker)
    return back(f"/ui/dead-letters/{letter_id}", "discard")


def back(path: str, verb: str) -> Response:
    """To the page that shows what was done."""
    return RedirectResponse(f"{path}?done={verb}", HTTPStatus.SEE_OTHER)


async def ask(
    request: Request, service: str, path: str, signed: Signed, body: Mapping[str, Any] | None = None
) -> None:
    """Have a service do something, in the name of whoever wants it. Raises Problem with its answer."""
    settings: TrackerSettings = request.app.state.settings
    url = settings.service_url(service)
    if url is None:
        raise Problem(409, f"this tracker does not know where {service} answers: use the command instead")
    timeout = ClientTimeout(total=settings.reconciliation_timeout_seconds)
    headers = _in_the_name_of(request, signed, path)
    try:
        async with (
            ClientSession(timeout=timeout, cookie_jar=DummyCookieJar()) as http,
            http.post(
                f"{url.rstrip('/')}{path}", json=body, headers=headers, allow_redirects=False
            ) as answer,
        ):
            if answer.status < HTTPStatus.BAD_REQUEST:
                return
            text = await bounded_body(answer, MAX_ANSWER_BYTES) or b""
    except (ClientError, ConnectionError, TimeoutError) as error:
        raise Problem(503, f"{service} does not answer: {type(error).__name__}") from error
    raise Problem(answer.status, f"{service} says: {_detail(text)}")


def _in_the_name_of(request: Request, signed: Signed, path: str) -> dict[str, str]:
    """Who acts, as the tracker states it; their own token, where it has nothing to show for itself."""
    acting = request.app.state.authentication.acting
    settings: TrackerSettings = request.app.state.settings
    if acting and settings.admin_token:
        return settings.credentials | {ACTING_HEADER: acting.sign(signed.who, "POST", path)}
    if not signed.token:
        raise not_valid("token", "without an ADMIN_TOKEN the tracker acts for nobody: give your own token")
    return {"Authorization": f"Bearer {signed.token}"}


def _detail(text: bytes) -> str:
    try:
        return str(json.loads(text)["detail"])
    except (ValueError, KeyError, TypeError):
        return "no reason"
