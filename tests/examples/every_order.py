"""Every order of things, with whatever services are installed: `pytest tests/examples/every_order.py`.

The books of each world at rest are checked as ever, and so is that a further service ends as it says it does.
"""

import pytest

from events.decision import Command
from events.facts import Fact
from tests.world.explore import explore
from tests.world.plays import ADA, PLENTY
from tests.world.stage import Stage
from tests.world.test_every_order import (
    CANCELLED,
    LATE,
    POSTED,
    PUBLISHED,
    UNDISTURBED,
    WITHDRAWN,
    in_dead_letters,
)


@pytest.mark.parametrize(
    ("happenings", "ends"),
    [((PUBLISHED,), UNDISTURBED), ((POSTED, CANCELLED, LATE), WITHDRAWN)],
    ids=["published", "posted, cancelled, late"],
)
def test_every_order_ends_as_without_it(happenings: tuple[Fact | Command, ...], ends: str) -> None:
    stage = Stage(ADA, stock=PLENTY, redrives=True)
    found = explore(stage, stage.start(*happenings))
    print(f"{found.worlds} worlds, {found.moves} moves")
    assert in_dead_letters({order for orders in found.ends for order in orders}) == ends
