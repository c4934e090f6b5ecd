"""Two orders want the last unit of one SKU."""

import pytest

from events.decision import Command
from events.facts import Fact
from tests.world.explore import explore
from tests.world.plays import ADA, BOB, ONE_PEAR, cancelled, posted, published
from tests.world.stage import Stage

LAST_PEAR = """
confirmed/sold      cancelled/rejected
confirmed/sold      cancelled/released
placed/reserved     cancelled/rejected
placed/reserved     cancelled/released
cancelled/released  cancelled/rejected
cancelled/released  cancelled/released
"""


@pytest.mark.parametrize(
    ("happenings", "redrives", "worlds"),
    [
        ((posted(ADA), posted(BOB)), False, 7_372),
        ((published(ADA), published(BOB)), False, 4_538),
        ((published(ADA), published(BOB)), True, 4_538),
    ],
    ids=["posted", "published", "published, heard again and again"],
)
def test_one_at_most_gets_the_last_unit(
    happenings: tuple[Fact | Command, ...], redrives: bool, worlds: int
) -> None:
    stage = Stage(ADA, BOB, stock=ONE_PEAR, redrives=redrives, brief=True)
    found = explore(stage, stage.start(*happenings))
    print(f"{found.worlds} worlds, {found.moves} moves, {len(found.ends)} ends")
    assert found.worlds == worlds
    pairs = {tuple(sorted(f"{end.order}/{end.inventory}" for end in ends)) for ends in found.ends}
    assert pairs == {tuple(sorted(line.split())) for line in LAST_PEAR.split("\n") if line}


def test_a_cancelled_order_lets_the_other_have_the_last_unit() -> None:
    stage = Stage(ADA, BOB, stock=ONE_PEAR, brief=True)
    found = explore(stage, stage.start(published(ADA), published(BOB), cancelled(ADA)))
    print(f"{found.worlds} worlds, {found.moves} moves, {len(found.ends)} ends")
    pairs = {(ada.inventory, bob.inventory) for ada, bob in found.ends}
    assert found.worlds == 26_583
    assert ("released", "sold") in pairs
    assert ("fenced", "sold") in pairs
    assert ("sold", "sold") not in pairs
