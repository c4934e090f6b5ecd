"""Runs the demo from the first process to the last invariant."""

import asyncio
import secrets
import time
from collections.abc import Collection, Mapping, Sequence

from rich.console import Console

from compose.check import Findings, examine, print_findings
from compose.demo.play import Played, play_all
from compose.demo.sabotage import Sabotage, sabotage_of
from compose.demo.scenarios import SCENARIOS
from compose.demo.shop import Refused, open_shop
from compose.demo.stage import Scenario, Stage
from compose.demo.telling import Narrator, print_table, surprises
from compose.local.errors import RigError
from compose.rig import Rig
from compose.snapshot import Reader, sources_of
from saga_tracker.consistency.rules import INVARIANTS
from saga_tracker.consistency.snapshot import Books, books_by_order, statuses_of

RUN_BYTES = 3
# For the processes that it starts. A service that is frozen is not late before its patience is over: by
# default, and so in a system that ran before the demo, that takes two minutes.
SETTINGS = {
    "MURMURATION_SERVICE_PATIENCE_SECONDS": '{"payment": 3}',
    "MURMURATION_STEP_DEADLINE_SECONDS": '{"payment": 8}',
}


def demo(rig: Rig, console: Console, only: Collection[str] = ()) -> bool:
    """Start what does not run, play the scenarios, check the invariants, stop what was started.

    Plays all of them, or `only` those of these names. Answers whether every order ended as it should and
    every invariant holds. Raises RigError, also for a name that no scenario has.
    """
    scenarios = _chosen(only)
    began = time.monotonic()
    with rig.running():
        console.print(f"everything is up after {time.monotonic() - began:.1f} s")
        with sabotage_of(rig) as sabotage:
            return asyncio.run(_demonstrate(rig, sabotage, scenarios, console))


def _chosen(only: Collection[str]) -> list[Scenario]:
    known = [scenario.name for scenario in SCENARIOS]
    if unknown := sorted(set(only) - set(known)):
        raise RigError(f"there is no scenario {', '.join(unknown)} (there are {', '.join(known)})")
    return [scenario for scenario in SCENARIOS if not only or scenario.name in only]


async def _demonstrate(rig: Rig, sabotage: Sabotage, scenarios: Sequence[Scenario], console: Console) -> bool:
    where = rig.addresses
    try:
        async with open_shop(where) as shop:
            run = secrets.token_hex(RUN_BYTES)
            played = await play_all(Stage(shop, sabotage), scenarios, run, Narrator(console))
    except (Refused, TimeoutError) as failed:
        raise RigError(f"the demo could not go on: {failed}") from failed
    async with Reader(sources_of(where)) as reader:
        findings = await examine(reader)
    statuses = _statuses(findings, played)
    print_table(console, played, statuses, [_broken(findings, one) for one in played])
    console.print()
    print_findings(findings, console)
    return _print_verdict(console, played, statuses, findings)


def _statuses(findings: Findings, played: list[Played]) -> list[Mapping[str, str]]:
    books = books_by_order(findings.snapshot)
    return [statuses_of(books.get(one.order_id, Books())) for one in played]


def _broken(findings: Findings, one: Played) -> set[str]:
    """The invariants that do not hold of an order."""
    return {found.invariant.name for found in findings.violations if found.order_id == one.order_id}


def _print_verdict(
    console: Console, played: list[Played], statuses: list[Mapping[str, str]], findings: Findings
) -> bool:
    wrong = {one.scenario.title: surprises(one, found) for one, found in zip(played, statuses, strict=True)}
    wrong = {title: differences for title, differences in wrong.items() if differences}
    broken = {violation.invariant.name for violation in findings.violations}
    good = not wrong and not broken
    console.print()
    for title, differences in wrong.items():
        console.print(f"ended otherwise: {title}: {'; '.join(differences)}", style="red", soft_wrap=True)
    console.print(
        f"{len(played) - len(wrong)} of {len(played)} orders ended as expected, "
        f"{len(INVARIANTS) - len(broken)} of {len(INVARIANTS)} invariants hold",
        style="bold green" if good else "bold red",
    )
    return good
