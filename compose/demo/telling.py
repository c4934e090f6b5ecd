"""Puts sagas and their ends into lines that a person can follow, made for 100 columns."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compose.demo.play import Audience, Fact, Played
from compose.demo.scenarios import Act, Scenario

COLOURS = {
    "order": "cyan",
    "inventory": "yellow",
    "payment": "magenta",
    "fulfillment": "blue",
    "notification": "green",
}
END_COLOURS = {"COMPLETED": "green", "CANCELLED": "yellow"}
INDENT = " " * 12
CHANNELS = {"email": "e-mail", "push": "push"}
SERVICES = tuple(COLOURS)

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
        elapsed = milliseconds(fact["since_start_seconds"])
        because = f"[dim]<- {fact['cause']['name']}[/]" if fact["cause"] else ""
        colour = COLOURS.get(service, "bold")
        self._console.print(
            f"{elapsed:>10}  [{colour}]{escape(service):<13} {escape(name):<19}[/] "
            f"{escape(particulars(fact['name'], fact['body'])):<19} {because}".rstrip(),
            soft_wrap=True,
        )

    def watches(self, act: Act) -> None:
        self._console.print(f"{INDENT}[bold]{escape(act.told_as)}[/]")

    def leaves(self, played: Played) -> None:
        if played.seconds is None:
            self._console.print(f"{INDENT}[bold red]{played.state}[/], and no end. {escape(played.awaited)}")
            return
        colour = END_COLOURS.get(played.state, "red")
        self._console.print(f"{INDENT}[bold {colour}]{played.state}[/] after {milliseconds(played.seconds)}")


def print_table(console: Console, played: Sequence[Played], statuses: Sequence[Mapping[str, str]]) -> None:
    """Every scenario's end, as the tracker sees it and in each service's own words."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("scenario", no_wrap=True)
    table.add_column("expected end")
    for service in SERVICES:
        table.add_column(service)
    table.add_column("after", justify="right")
    for one, found in zip(played, statuses, strict=True):
        scenario = one.scenario
        cells = [_compared(scenario.statuses[service], found[service]) for service in SERVICES]
        took = "-" if one.seconds is None else milliseconds(one.seconds)
        table.add_row(escape(scenario.title), _compared(scenario.end, one.state, "ok "), *cells, took)
    console.print()
    console.print(table)


def _compared(expected: str, found: str, good: str = "") -> str:
    return f"[green]{good}[/]{found}" if found == expected else f"[bold red]{found}[/]"


def surprises(one: Played, found: Mapping[str, str]) -> list[str]:
    """Where a scenario ended otherwise than it must, in words."""
    expected = {"the tracker": one.scenario.end, **one.scenario.statuses}
    told = {"the tracker": one.state, **found}
    return [f"{who} says {told[who]}, not {what}" for who, what in expected.items() if told[who] != what]


def milliseconds(seconds: float) -> str:
    """A short span of time."""
    return f"{seconds * 1_000:.0f} ms"


def particulars(name: str, body: Body) -> str:
    """What a fact says beyond its name, in a few words."""
    say = _PARTICULARS.get(name)
    return say(body) if say else str(body.get("reason", ""))


def _order(body: Body) -> str:
    units = sum(line["quantity"] for line in body["lines"])
    amount = sum(line["amount_minor"] for line in body["lines"])
    return f"{_units(units)}, {_money(amount, body['currency'])}"


def _units(units: int) -> str:
    return "1 unit" if units == 1 else f"{units} units"


def _money(amount_minor: int, currency: str) -> str:
    """Of a currency with two decimal places, as those of the demo are."""
    return f"{amount_minor / 100:.2f} {currency}"


_PARTICULARS: Mapping[str, Callable[[Body], str]] = {
    "order.created": _order,
    "order.confirmed": lambda _: "the pivot",
    "inventory.stock_reserved": lambda body: _units(sum(line["quantity"] for line in body["lines"])),
    "payment.captured": lambda body: _money(body["amount_minor"], body["currency"]),
    "payment.refunded": lambda body: f"by {body['undone_by'].replace('_', ' ')}",
    "fulfillment.shipment_scheduled": lambda body: f"for {body['deliver_on']}",
    "notification.customer_notified": lambda body: " and ".join(
        CHANNELS.get(channel, channel) for channel in body["channels"]
    ),
}
