"""Runs the demo from the first process to the last invariant."""

import asyncio
import secrets
import time
from collections.abc import Mapping

from rich.console import Console

from compose.books import Books, books_by_order, statuses_of
from compose.check import Findings, examine, print_findings
from compose.demo.play import Played, play
from compose.demo.scenarios import SCENARIOS
from compose.demo.shop import Refused, open_shop
from compose.demo.telling import Narrator, print_table, surprises
from compose.invariants import INVARIANTS
from compose.local.addresses import Addresses
from compose.local.errors import RigError
from compose.local.rig import LocalRig
from compose.snapshot import Reader, sources_of

RUN_BYTES = 3


def demo(rig: LocalRig, console: Console) -> bool:
    """Start what does not run, play all scenarios, check the invariants, stop what was started.

    Answers whether every order ended as it should and every invariant holds. Raises RigError.
    """
    began = time.monotonic()
    with rig.running():
        console.print(f"everything is up after {time.monotonic() - began:.1f} s")
        return asyncio.run(_demonstrate(rig.addresses, console))


async def _demonstrate(where: Addresses, console: Console) -> bool:
    try:
        played = await _play_all(where, console)
    except Refused as refused:
        raise RigError(f"the system refused a request of the demo: {refused}") from refused
    async with Reader(sources_of(where)) as reader:
        findings = await examine(reader)
    statuses = _statuses(findings, played)
    print_table(console, played, statuses)
    console.print()
    print_findings(findings, console)
    return _print_verdict(console, played, statuses, findings)


async def _play_all(where: Addresses, console: Console) -> list[Played]:
    run = secrets.token_hex(RUN_BYTES)
    narrator = Narrator(console)
    async with open_shop(where) as shop:
        return [await play(shop, scenario, run, narrator) for scenario in SCENARIOS]


def _statuses(findings: Findings, played: list[Played]) -> list[Mapping[str, str]]:
    books = books_by_order(findings.snapshot)
    return [statuses_of(books.get(one.order_id, Books())) for one in played]


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
