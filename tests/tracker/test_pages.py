"""Nothing that a page shows is ever taken for a part of the page."""

import pytest

from saga_tracker.board.pages import dead_letters_page, home_page, saga_page
from saga_tracker.dead_letters.dead_letter import DeadLetterKind, DeadLetterState
from saga_tracker.dead_letters.views import AuditView, DeadLetterPage, DeadLetterView, Groups
from saga_tracker.http.views import SagaPage, SagaWithTimeline, Stats, WaitView
from saga_tracker.projection import State
from tests.planted import ESCAPED, SCRIPT, planted


def a_saga(state: State) -> SagaWithTimeline:
    """It waits in each of the ways that there are."""
    saga: SagaWithTimeline = planted(SagaWithTimeline)
    wait: WaitView = planted(WaitView)
    down, due = (wait.model_copy(update={"overdue_at": None}) for _ in range(2))
    saga.waits, saga.state = [wait, down, due.model_copy(update={"service_down": None})], state
    return saga


@pytest.mark.parametrize("chosen", [None, State.COMPLETED])
def test_the_list_of_sagas_escapes_every_string(chosen: State | None) -> None:
    stats: Stats = planted(Stats)
    page: SagaPage = planted(SagaPage)
    page.sagas = [a_saga(State.COMPENSATING)]
    text = home_page(stats, page, chosen)
    assert "<script" not in text
    assert SCRIPT not in text
    # Why there is a gap, why the saga failed; whom it waits for, for what, what is down and what is locked.
    # Of each wait also its cause: error, what, party and circuit; and the act.
    assert text.count(ESCAPED) == 1 + 1 + 3 * 2 + 1 + 3 + 3 * 5


@pytest.mark.parametrize("state", State)
def test_the_page_of_a_saga_escapes_every_string(state: State) -> None:
    dead_letter: DeadLetterView = planted(DeadLetterView)
    case = dead_letter.model_copy(update={"kind": DeadLetterKind.CASE})
    entries: list[AuditView] = [planted(AuditView)]
    text = saga_page(a_saga(state), [dead_letter, case], entries, base_url=f"http://{SCRIPT}/")
    assert "<script" not in text
    assert SCRIPT not in text
    assert text.count(ESCAPED) > 3 * 2 + 4 + 2 * 4 + 4 + 6


@pytest.mark.parametrize("chosen", DeadLetterState)
def test_the_page_of_dead_letters_escapes_every_string(chosen: DeadLetterState) -> None:
    groups: Groups = planted(Groups)
    page: DeadLetterPage = planted(DeadLetterPage)
    asked = {"service": SCRIPT, "reason": SCRIPT}
    text = dead_letters_page(groups, page, asked, chosen, base_url=f"http://{SCRIPT}/")
    assert "<script" not in text
    assert SCRIPT not in text
    assert text.count(ESCAPED) >= 3 + 4
