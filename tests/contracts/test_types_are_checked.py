"""mypy refuses a `decide` that forgets what it receives, or says what it did not declare."""

from pathlib import Path

import pytest
from mypy import api

ROOT = Path(__file__).parents[2]

HEAD = """
from typing import Literal, Never, assert_never
from uuid import UUID

from events.decision import Call, Decision
from events.facts.notification import CustomerNotified, NotificationFailed
from events.facts.order import OrderCancelled, OrderConfirmed

Hears = OrderConfirmed | OrderCancelled
State = Literal["told"] | None


class Ring(Call, name="ring"):
    pass


def told(order_id: UUID) -> CustomerNotified:
    return CustomerNotified(order_id=order_id, ending="confirmed", channels=("email",))


def failed(order_id: UUID) -> NotificationFailed:
    return NotificationFailed(order_id=order_id, ending="confirmed", reason="bounced")


def decide(state: State, message: Hears) -> Decision[State, CustomerNotified, Never]:
    match message:
        case OrderConfirmed():
"""

SNIPPETS = {
    "good": """
            return Decision("told", facts=(told(message.order_id),))
        case OrderCancelled():
            return Decision(state)
        case _:
            assert_never(message)
""",
    "forgets_a_heard_fact": """
            return Decision("told", facts=(told(message.order_id),))
        case _:
            assert_never(message)
""",
    "falls_through": """
            return Decision("told", facts=(told(message.order_id),))
    return Decision(state)
""",
    "states_an_undeclared_fact": """
            return Decision("told", facts=(failed(message.order_id),))
        case OrderCancelled():
            return Decision(state)
        case _:
            assert_never(message)
""",
    "asks_for_an_undeclared_call": """
            return Decision("told", calls=(Ring(order_id=message.order_id),))
        case OrderCancelled():
            return Decision(state)
        case _:
            assert_never(message)
""",
    "becomes_an_unknown_state": """
            return Decision("bored")
        case OrderCancelled():
            return Decision(state)
        case _:
            assert_never(message)
""",
}
REFUSED = {
    "forgets_a_heard_fact": '"assert_never" has incompatible type "OrderCancelled"',
    "falls_through": "Match statement has unhandled case",
    "states_an_undeclared_fact": "NotificationFailed",
    "asks_for_an_undeclared_call": "Ring",
    "becomes_an_unknown_state": "bored",
}


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What mypy has to say of all snippets at once, with the project's own configuration."""
    directory = tmp_path_factory.mktemp("snippets")
    for name, rest in SNIPPETS.items():
        (directory / f"{name}.py").write_text(HEAD.rstrip("\n") + rest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYPYPATH", str(ROOT))
        found, trouble, _ = api.run(
            [
                f"--config-file={ROOT / 'pyproject.toml'}",
                f"--cache-dir={ROOT / '.mypy_cache' / 'contracts'}",
                *(str(directory / f"{name}.py") for name in SNIPPETS),
            ]
        )
    assert trouble == ""
    return found.splitlines()


def test_a_good_decide_passes(complaints: list[str]) -> None:
    assert [line for line in complaints if "good.py" in line] == []


@pytest.mark.parametrize(("name", "complaint"), REFUSED.items(), ids=REFUSED)
def test_a_bad_decide_is_refused(name: str, complaint: str, complaints: list[str]) -> None:
    of_it = [line for line in complaints if f"{name}.py" in line and ": error:" in line]
    assert any(complaint in line for line in of_it), "\n".join(complaints)
