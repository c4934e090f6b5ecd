"""Nothing that a page shows is ever taken for a part of the page."""

from typing import Any

import pytest

from events.facts.payment import PaymentCaptured
from events.http.problems import Problem
from saga_tracker.board import letters, overviews, pages
from saga_tracker.board.acts import ActView, Ordered, on_letter, on_saga
from saga_tracker.board.health import Incident, ServiceHealth
from saga_tracker.board.overviews import CaseView
from saga_tracker.board.pages import Asked
from saga_tracker.board.render import error_page
from saga_tracker.dead_letters.dead_letter import DeadLetterKind, DeadLetterState
from saga_tracker.dead_letters.views import (
    AuditPage,
    AuditView,
    DeadLetterPage,
    DeadLetterView,
    Groups,
    WholeDeadLetter,
)
from saga_tracker.http.views import GapView, SagaPage, SagaWithTimeline, WaitView
from saga_tracker.projection import State
from saga_tracker.reading.reader import Progress
from saga_tracker.reconciliation.api import Reconciliation
from tests.planted import ESCAPED, SCRIPT, planted


def a_saga(state: State) -> SagaWithTimeline:
    """It waits in each of the ways that there are."""
    saga: SagaWithTimeline = planted(SagaWithTimeline)
    wait: WaitView = planted(WaitView)
    down, due = (wait.model_copy(update={"overdue_at": None}) for _ in range(2))
    saga.waits, saga.state = [wait, down, due.model_copy(update={"service_down": None})], state
    return saga


def is_escaped(text: str, at_least: int) -> None:
    """Scripts are the board's own files, and nothing else is one."""
    assert text.count("<script") == text.count('<script src="/ui/static/') == 2
    assert SCRIPT not in text
    assert text.count(ESCAPED) >= at_least


def test_the_first_page_escapes_every_string() -> None:
    health: dict[str, Any] = {SCRIPT: planted(ServiceHealth), "payment": ServiceHealth()}
    text = pages.home_page(
        states=dict.fromkeys(State, 0),
        incidents=[planted(Incident)],
        health=health,
        circuits={SCRIPT: True},
        gaps=[planted(GapView)],
        letters=1,
        manual=1,
        approvals=1,
        differences=1,
        outbox={"waiting": 1, "age_seconds": 1.0},
        leader=SCRIPT,
        stream=planted(Progress),
        blocked=SCRIPT,
        plots=[],
        latest=[a_saga(State.COMPENSATING)],
    )
    # Who is late, why, after what, and how that is; the gap; a service, why it is down, its circuit; a party;
    # the broker; the leader.
    # Why the saga failed; whom it waits for, for what, what is down and what is locked.
    is_escaped(text, 4 + 1 + 3 + 1 + 1 + 1 + 1 + 3 * 2 + 1 + 3)


def test_the_list_of_sagas_escapes_every_string() -> None:
    page: SagaPage = planted(SagaPage)
    page.sagas = [a_saga(State.COMPENSATING)]
    asked = Asked(reason=SCRIPT, cause=SCRIPT, sku=SCRIPT, customer=SCRIPT, order=SCRIPT, waiting_for=SCRIPT)
    is_escaped(pages.sagas_page(page, asked), 1 + 3 * 2 + 1 + 3 + 5)


@pytest.mark.parametrize("state", State)
def test_the_page_of_a_saga_escapes_every_string(state: State) -> None:
    dead_letter: DeadLetterView = planted(DeadLetterView)
    case = dead_letter.model_copy(update={"kind": DeadLetterKind.CASE})
    entries: list[AuditView] = [planted(AuditView)]
    text = pages.saga_page(a_saga(state), [dead_letter, case], entries, base_url=f"http://{SCRIPT}/")
    is_escaped(text, 3 * 2 + 4 + 2 * 4 + 4 + 6)


def test_the_page_of_a_fact_escapes_every_string() -> None:
    saga = a_saga(State.COMPLETED)
    is_escaped(pages.fact_page(saga, saga.facts[0]), 4)


@pytest.mark.parametrize("chosen", DeadLetterState)
def test_the_page_of_dead_letters_escapes_every_string(chosen: DeadLetterState) -> None:
    groups: Groups = planted(Groups)
    page: DeadLetterPage = planted(DeadLetterPage)
    asked = {"service": SCRIPT, "reason": SCRIPT}
    is_escaped(letters.dead_letters_page(groups, page, asked, chosen), 3 + 4)


def test_the_page_of_a_letter_escapes_every_string() -> None:
    whole: WholeDeadLetter = planted(WholeDeadLetter)
    shown = letters.letter_page(
        whole,
        base_url="http://localhost/",
        text=SCRIPT,
        edited=SCRIPT,
        diff=[("added", SCRIPT)],
        proposed=planted(letters.ProposalView),
    )
    is_escaped(shown, 9 + 3)
    assert [act.verb for act in on_letter(whole, f"http://{SCRIPT}/")] == ["replay", "discard"]


def test_the_other_pages_escape_every_string() -> None:
    case: CaseView = planted(CaseView)
    is_escaped(overviews.manual_page([case]), 5 + 1 + 5)
    found: Reconciliation = planted(Reconciliation)
    is_escaped(overviews.reconciliation_page(found), 5)
    entries: AuditPage = planted(AuditPage)
    is_escaped(overviews.audit_page(entries), 4)
    is_escaped(overviews.services_page({"payment": planted(ServiceHealth)}), 1)
    example = {"order_id": SCRIPT, "fact_id": SCRIPT, "body": {SCRIPT: SCRIPT}}
    is_escaped(overviews.fact_type_page(PaymentCaptured, example), 2)


def test_a_page_of_an_error_escapes_every_string() -> None:
    problem = Problem(409, SCRIPT, errors=[{"at": SCRIPT, "problem": SCRIPT}], state=SCRIPT)
    is_escaped(bytes(error_page(problem).body).decode(), 4)


def test_an_amount_is_shown_where_money_is_decided_about() -> None:
    saga = a_saga(State.AWAITING_APPROVAL)
    ordered = Ordered(4_000, "EUR", [], 1_000, "cust_1")
    acts: list[ActView] = on_saga(saga, [], "http://localhost/", ordered)
    assert [act.title for act in acts] == ["Approve 40.00 EUR", "Reject 40.00 EUR", "Cancel the order"]
    assert "above the limit of 10.00 EUR" in acts[0].says
    assert acts[0].curl.startswith('curl -X POST "$PAYMENT_URL/payments/')
