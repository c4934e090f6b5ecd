"""Beyond what can be enumerated: several orders at once, and a person who does not give up, in random orders.

Every run has a new seed and prints it; `--hypothesis-seed=N` runs that one again.
"""

from random import SystemRandom

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from events.decision import Command
from events.facts import Fact
from inventory_svc.decide import Stock
from tests.world.explore import Auditor
from tests.world.plays import (
    ABOVE_LIMIT,
    ADA,
    BOB,
    EVE,
    LINES,
    approval_expired,
    cancelled,
    posted,
    published,
    timed_out,
)
from tests.world.stage import Bug, Stage
from tests.world.test_planted_bugs import inventory_trusts_its_inbox
from tests.world.world import Inconsistent, World

RUNS = 200
SOME = (Stock("apple", 4, 0, 0), Stock("pear", 2, 0, 0))
EVERYBODY = ("payment", "fulfillment", "notification")
MAX_MOVES = 500


@st.composite
def happenings(draw: st.DrawFn) -> list[Fact | Command]:
    """Three orders for stock that may do for two, each of them perhaps dear, unwanted, late or later."""
    chosen: list[Fact | Command] = []
    for order_id in (ADA, BOB, EVE):
        lines = draw(st.sampled_from([LINES, ABOVE_LIMIT]))
        chosen.append(posted(order_id, lines) if draw(st.booleans()) else published(order_id, lines))
        chosen += [cancelled(order_id)] if draw(st.booleans()) else []
        chosen += [timed_out(order_id, f"late {time}") for time in range(draw(st.integers(0, 2)))]
        chosen += [approval_expired(order_id)] if draw(st.booleans()) else []
    return chosen


def run_at_random(stage: Stage, world: World, data: st.DataObject) -> list[str]:
    """Make random moves until nothing is left to happen. Raises Inconsistent, with what has happened."""
    auditor = Auditor(stage)
    lived: list[str] = []
    try:
        for _ in range(MAX_MOVES):
            moves = list(stage.moves(world))
            auditor.check(world, at_rest=all(move.may_rest for move in moves))
            if not moves:
                return lived
            move = moves[data.draw(st.integers(0, len(moves) - 1))]
            lived.append(f"  {move}")
            world = move.world
    except Inconsistent as error:
        raise Inconsistent("\n".join([f"{error}, after:", *lived])) from error
    raise Inconsistent("\n".join([f"no end after {MAX_MOVES} moves:", *lived]))


@pytest.fixture
def seed_of_this_run(pytestconfig: pytest.Config) -> int:
    chosen = pytestconfig.getoption("--hypothesis-seed")
    number = SystemRandom().randrange(2**32) if chosen is None else int(chosen)
    print(f"run this again with --hypothesis-seed={number}")
    return number


often = settings(
    max_examples=RUNS,
    derandomize=False,
    database=None,
    deadline=None,
    print_blob=True,
    phases=[Phase.generate],  # shrinking takes minutes; for short stories there are the plays
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


@pytest.mark.parametrize("redrives", [False, True], ids=["heard once", "heard again and again"])
def test_several_orders_end_consistent(redrives: bool, seed_of_this_run: int) -> None:
    @seed(seed_of_this_run)
    @often
    @given(happenings(), st.integers(0, 4), st.data())
    def run(wanted: list[Fact | Command], acts: int, data: st.DataObject) -> None:
        stage = Stage(ADA, BOB, EVE, stock=SOME, acts_on=EVERYBODY, redrives=redrives)
        run_at_random(stage, stage.start(*wanted, acts=acts), data)

    run()


def test_random_orders_find_a_planted_bug() -> None:
    bug = Bug("inventory", inventory_trusts_its_inbox)

    @seed(0)
    @settings(often, max_examples=5_000, print_blob=False)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        stage = Stage(ADA, stock=SOME, redrives=True, bug=bug)
        run_at_random(stage, stage.start(published(ADA), timed_out(ADA)), data)

    with pytest.raises(Inconsistent, match="stock_adds_up"):
        run()
