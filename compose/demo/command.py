"""Runs the demo from the first process to the last invariant, and tells it."""

import asyncio
import secrets
import textwrap
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import cycle
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compose.check import Findings, examine, print_findings
from compose.demo.play import Act, Audience, Fact, Played, Sabotage, Scenario, Stage, play_all, sabotage_of
from compose.demo.scenarios import SCENARIOS
from compose.demo.shop import Refused, open_shop
from compose.local.commands import RigError
from compose.local.provision import ALL_IN_ONE
from compose.rig import Rig
from compose.snapshot import Reader, sources_of
from compose.system import SERVICE_NAMES
from events.facts.base import in_words
from saga_tracker.consistency.rules import INVARIANTS
from saga_tracker.consistency.snapshot import DONE, UNDONE, Books, books_by_order, statuses_of

# Puts sagas and their ends into lines that a person can follow, made for 100 columns.

# One each, in turn.
COLOURS = dict(zip(SERVICE_NAMES, cycle(("cyan", "yellow", "magenta", "blue", "green")), strict=False))
END_COLOURS = {"COMPLETED": "green", "CANCELLED": "yellow"}
INDENT = " " * 12
CHANNELS = {"email": "e-mail", "push": "push"}

Body = Mapping[str, Any]


class Narrator(Audience):
    """Prints each saga: a heading, a line a fact, and how it ended."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._number = 0

    def begins(self, scenario: Scenario, order_id: UUID) -> None:
        self._number += 1
        title = f"{self._number}  {scenario.title}"
        self._console.print(
            f"\n[bold]{escape(title)}[/][dim]{f'order {order_id}':>{self._console.width - len(title)}}[/]"
        )
        self._console.print(f"   [dim]{escape(scenario.point)}[/]", soft_wrap=True)

    def sees(self, fact: Fact) -> None:
        """When, by whom, what, the particulars, and the fact it came from."""
        service, name = fact["stated_by"], fact["name"].partition(".")[2]
        elapsed = span(fact["since_start_seconds"])
        because = f"[dim]<- {fact['causation']['name']}[/]" if fact["causation"] else ""
        colour = COLOURS.get(service, "bold")
        self._console.print(
            f"{elapsed:>10}  [{colour}]{escape(service):<13} {escape(name):<19}[/] "
            f"{escape(particulars(fact['name'], fact['body'])):<19} {because}".rstrip(),
            soft_wrap=True,
        )

    def watches(self, act: Act) -> None:
        self._say(act.announced_as, "bold")

    def learns(self, what: str) -> None:
        self._say(what, "dim")

    def _say(self, what: str, style: str) -> None:
        for line in textwrap.wrap(what, self._console.width - len(INDENT)):
            self._console.print(f"{INDENT}[{style}]{escape(line)}[/]", soft_wrap=True)

    def leaves(self, played: Played) -> None:
        if played.seconds is None:
            self._console.print(f"{INDENT}[bold red]{played.state}[/], and no end. {escape(played.awaited)}")
            return
        colour = END_COLOURS.get(played.state, "red")
        self._console.print(f"{INDENT}[bold {colour}]{played.state}[/] after {span(played.seconds)}")


def print_table(
    console: Console,
    played: Sequence[Played],
    statuses: Sequence[Mapping[str, str]],
    broken: Sequence[Collection[str]],
) -> None:
    """Every scenario: its fault, how it ended for the tracker and each service, and what is `broken`."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("fault", no_wrap=True)
    table.add_column("end")
    for service in SERVICE_NAMES:
        table.add_column(service)
    table.add_column("invariants")
    table.add_column("", no_wrap=True)
    for number, (one, found, wrong) in enumerate(zip(played, statuses, broken, strict=True), 1):
        scenario = one.scenario
        cells = [
            _compared(expected, found[service]) for service, expected in _expected_statuses(scenario).items()
        ]
        table.add_row(
            str(number),
            escape(scenario.fault),
            _compared(scenario.end, one.state),
            *cells,
            f"[bold red]{len(wrong)} broken[/]" if wrong else "hold",
            "[bold red]FAIL[/]" if wrong or surprises(one, found) else "[green]pass[/]",
        )
    console.print()
    console.print(table)


def _compared(expected: str, found: str) -> str:
    return found if found == expected else f"[bold red]{found}[/]"


def _expected_statuses(scenario: Scenario) -> dict[str, str]:
    """What each service must say; one that the scenario does not know, the first word that fits its end."""
    ends = DONE if scenario.end == "COMPLETED" else UNDONE
    return {service: scenario.statuses.get(service, ends[service][0]) for service in SERVICE_NAMES}


def surprises(one: Played, found: Mapping[str, str]) -> list[str]:
    """Where a scenario ended otherwise than it must, in words."""
    expected = {"the tracker": one.scenario.end, **_expected_statuses(one.scenario)}
    actual = {"the tracker": one.state, **found}
    return [f"{who} says {actual[who]}, not {what}" for who, what in expected.items() if actual[who] != what]


def span(seconds: float) -> str:
    """A short span of time."""
    return f"{seconds * 1_000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def particulars(name: str, body: Body) -> str:
    """What a fact says beyond its name, in a few words."""
    say = _PARTICULARS.get(name)
    return say(body) if say else str(body.get("reason", ""))


def _order(body: Body) -> str:
    units = sum(line["quantity"] for line in body["lines"])
    amount = sum(line["amount_minor"] for line in body["lines"])
    return f"{_units(units)}, {in_words(amount, body['currency'])}"


def _units(units: int) -> str:
    return "1 unit" if units == 1 else f"{units} units"


_PARTICULARS: Mapping[str, Callable[[Body], str]] = {
    "order.created": _order,
    "order.confirmed": lambda _: "the pivot",
    "inventory.stock_reserved": lambda body: _units(sum(line["quantity"] for line in body["lines"])),
    "payment.approved": lambda body: f"by {body['by']}",
    "payment.captured": lambda body: in_words(body["amount_minor"], body["currency"]),
    "payment.refunded": lambda body: f"by {body['undone_by'].replace('_', ' ')}",
    "payment.refund_failed": lambda body: body["reason"].rpartition(": ")[2],
    "fulfillment.shipment_scheduled": lambda body: f"for {body['deliver_on']}",
    "saga.redriven": lambda body: f"to {body['service']}",
    "saga.timed_out": lambda body: f"no {body['waiting_for']}",
    "saga.settled": lambda body: f"by {body['by']}",
    "notification.customer_notified": lambda body: " and ".join(
        CHANNELS.get(channel, channel) for channel in body["channels"]
    ),
}


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
        if ALL_IN_ONE in {component.name for component in rig.status()}:
            scenarios = _without_freezing(scenarios, console)
        with sabotage_of(rig) as sabotage:
            return asyncio.run(_demonstrate(rig, sabotage, scenarios, console))


def _without_freezing(scenarios: Sequence[Scenario], console: Console) -> list[Scenario]:
    """Those that one process for all services can play."""
    if left_out := [scenario.name for scenario in scenarios if scenario.freezes]:
        console.print(f"without {', '.join(left_out)}: these freeze a service that is a process of its own")
    return [scenario for scenario in scenarios if not scenario.freezes]


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
