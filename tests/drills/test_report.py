"""What drills are told and repeated by, without a system to break."""

import asyncio
import re
from pathlib import Path
from random import Random
from typing import cast
from uuid import UUID, uuid5
from xml.etree import ElementTree

import pytest

from compose.demo.shop import Item, Shop
from compose.drills.catalogue import DRILLS
from compose.drills.command import Harness, chosen_drills
from compose.drills.load import Load
from compose.drills.local_rig import LocalDrillRig
from compose.drills.outcome import Check, Fault, Outcome, Report, Sample, Stall, Timeline, longest_stall
from compose.drills.report import faults_of, page_of, plot_of, summary_of
from compose.drills.rig import Deed
from compose.drills.stage import Drill, Stage
from compose.local.commands import RigError
from compose.local.rig import LocalRig
from tests.planted import ESCAPED, SCRIPT, planted

Placed = tuple[str, str, Item, str]


class Register:
    """A shop that accepts every order at once, and remembers it."""

    def __init__(self) -> None:
        self.placed: list[Placed] = []

    async def place(self, customer: str, payment_token: str, item: Item, *, key: str) -> UUID:
        self.placed.append((customer, payment_token, item, key))
        return uuid5(UUID(int=0), key)


async def orders_of(seed: int, count: int = 30) -> list[Placed]:
    """The first orders of a load."""
    register = Register()
    load = Load(cast(Shop, register), Random(seed), "run", 10_000.0)
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run())
        await load.accepted(count)
        load.stop()
    return register.placed[:count]


async def nothing(_stage: Stage) -> None:
    """A strike that breaks nothing."""


async def test_the_same_seed_draws_the_same_orders() -> None:
    assert await orders_of(1) == await orders_of(1)
    assert await orders_of(1) != await orders_of(2)


async def test_what_a_rig_cannot_do_is_skipped_by_name(tmp_path: Path) -> None:
    rig = LocalDrillRig(LocalRig(tmp_path / "rig", environment={}))
    drill = Drill("lose-a-node", "one broker of three dies", nothing, (Deed("kill", "rabbitmq-2"),))
    outcome = await Harness(rig, 1, 1.0).run(drill)
    assert outcome.result == "skipped"
    assert outcome.skipped_because == "cannot kill rabbitmq-2: there is one broker node here"
    report = Report(rig.name, 1, "now", 0.0, [outcome])
    assert report.passed
    assert "skipped: cannot kill rabbitmq-2: there is one broker node here" in summary_of(report)
    assert "skipped: cannot kill rabbitmq-2: there is one broker node here" in page_of(report)
    assert not (tmp_path / "rig").exists()


def test_every_drill_has_a_name_of_its_own_and_others_are_refused() -> None:
    names = [drill.name for drill in DRILLS]
    assert len(set(names)) == len(names)
    assert [drill.name for drill in chosen_drills([names[1]])] == [names[1]]
    with pytest.raises(RigError, match="there is no drill nonsense"):
        chosen_drills(["nonsense"])


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([], Stall(0, 0)),
        ([Sample(0, 0, 0), Sample(5, 0, 0)], Stall(0, 0)),
        ([Sample(0, 2, 0), Sample(3, 2, 1), Sample(4, 2, 2), Sample(9, 2, 2)], Stall(0, 3)),
        ([Sample(0, 1, 0), Sample(1, 2, 1), Sample(3, 2, None), Sample(6, 2, 2)], Stall(1, 6)),
        ([Sample(0, 0, 0), Sample(2, 1, 0), Sample(7, 1, 0)], Stall(2, 7)),
    ],
)
def test_a_stall_is_while_something_is_in_flight(samples: list[Sample], expected: Stall) -> None:
    assert longest_stall(samples) == expected


def a_timeline() -> Timeline:
    return Timeline(
        [Sample(0, 1, 0), Sample(1, 3, 1), Sample(2, 4, None), Sample(3, 5, 5)],
        [Fault("<broker> away", 1.0, 2.5), Fault("never healed", 2.0)],
    )


def test_the_plot_breaks_off_where_nobody_could_tell() -> None:
    svg = ElementTree.fromstring(plot_of(a_timeline()))
    drawn = {
        group.get("id"): group.findall(".//{*}path") for group in svg.iter("{http://www.w3.org/2000/svg}g")
    }
    # Each M is where the pen is put down.
    pieces = {name: drawn[name][0].attrib["d"].count("M") for name in ("accepted", "ended", "in flight")}
    assert pieces == {"accepted": 1, "ended": 2, "in flight": 2}
    assert faults_of(a_timeline()) == ["<broker> away: 1.0 s to 2.5 s", "never healed: 2.0 s to 3.0 s"]


def test_the_same_timeline_makes_the_same_plot() -> None:
    assert plot_of(a_timeline()) == plot_of(a_timeline())


def test_the_page_of_a_run_escapes_every_string() -> None:
    report: Report = planted(Report)
    (outcome,) = report.outcomes
    outcome.skipped_because = None
    outcome.timeline = a_timeline()
    outcome.timeline.faults[0].label = SCRIPT
    page = page_of(Report(SCRIPT, 7, SCRIPT, 1.0, [outcome, planted(Outcome)]))
    assert "<script" not in page
    assert SCRIPT not in page
    # The run; both rows; the section: its title, ends, why it may cost so much, a fault twice,
    # why it broke off, what was asked, what speaks against it, a process and its state.
    assert page.count(ESCAPED) >= 2 + 3 + 10


def test_no_plot_is_drawn_where_nothing_was_measured() -> None:
    assert plot_of(Timeline()) == "<p>Nothing was measured.</p>"


def test_a_failure_is_shown_with_what_speaks_for_it() -> None:
    checks = (Check("All is well."), Check("Nothing is lost.", ("order <7> is lost",)))
    failed = Outcome("drill", "a drill", 12.0, 5, {"COMPLETED": 4}, checks, {"order": "died"}, a_timeline())
    report = Report("local processes", 7, "now", 12.0, [failed])
    assert not report.passed
    assert report.headline == "0 passed, 1 failed, 0 skipped; 5 orders accepted under faults"
    summary, page = summary_of(report), page_of(report)
    assert "| drill | a drill | FAIL | 12 | 5 | 4 COMPLETED | 2.0 s |" in summary
    assert "- FAIL Nothing is lost.\n  - order <7> is lost\n" in summary
    assert "- pass All is well." in summary
    assert "| order | died |" in summary
    assert "Nothing is lost.<br>order &lt;7&gt; is lost" in page
    assert "&lt;broker&gt; away: 1.0 s to 2.5 s" in page
    assert not re.search(r"(src|href)=\"(?!#)", page), "the page needs nothing else"
