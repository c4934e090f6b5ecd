"""What is printed: a line as each round ends, and a block for each scenario."""

from collections.abc import Mapping, Sequence

from tests.bench.cpu import LOAD
from tests.bench.results import FIGURES, Result, Round, Run, number_of_rounds
from tests.bench.scenarios.scenario import Scenario

# What stands in a line together, and what introduces it.
LINES: Mapping[str, Sequence[str]] = {
    "load": ("offered_per_second", "in_flight", "backlog_max"),
    "intake": (
        "accepted_per_second",
        "published_per_second",
        "post_p50_ms",
        "post_p99_ms",
        "refused_percent",
        "refused",
    ),
    "sagas": ("ended_per_second", "completed_percent", "cancelled_percent"),
    "floor": ("floor_per_second", "share_of_floor_percent", "share_of_empty_percent", "cpu_of_empty_percent"),
    "notified": ("notified_p50_ms", "notified_p99_ms"),
    "end to end": ("end_to_end_p50_ms", "end_to_end_p95_ms", "end_to_end_p99_ms", "end_to_end_max_ms"),
    "tracker": (
        "tracker_lag_p50_ms",
        "tracker_lag_max_ms",
        "tracker_behind_max",
        "facts",
        "facts_per_second",
    ),
    "drain": ("drain_seconds", "drained_per_second", "decided_per_second", "sold"),
    "pages": ("page_p50_ms", "page_p95_ms", "share_without_tabs_percent"),
    "memory": ("memory_growth_percent",),
}
SHORT = (
    "ended_per_second",
    "accepted_per_second",
    "published_per_second",
    "end_to_end_p50_ms",
    "end_to_end_p99_ms",
)
ALWAYS_SHORT = ("decided_per_second", "drained_per_second", "facts_per_second")


def announce(scenario: Scenario, place: str, rounds: int, left_seconds: float) -> None:
    """What comes next, and how long all that comes takes."""
    times, minutes = number_of_rounds(rounds), left_seconds / 60
    print(f"\n[{place}] {scenario.name}: {scenario.title}; {times}; about {minutes:.0f} min left", flush=True)


def tell_round(number: int, found: Round) -> None:
    """A line."""
    shown = [_figure(name, found.figures) for name in (*SHORT, *ALWAYS_SHORT) if name in found.figures]
    print(f"  round {number}: {', '.join(shown) or 'nothing was measured'}", flush=True)


def tell_result(result: Result) -> None:
    """The medians of all rounds."""
    figures = result.figures
    for title, names in LINES.items():
        shown = [_figure(name, figures) for name in names if name in figures and not _is_dull(name, figures)]
        if shown:
            print(f"  {title:<12} {', '.join(shown)}")
    if result.cpu_ms:
        system = {name: ms for name, ms in result.cpu_ms.items() if name != LOAD}
        parts = ", ".join(f"{name} {ms:.2f}" for name, ms in system.items())
        load = result.cpu_ms.get(LOAD, 0.0)
        print(
            f"  CPU ms each  {parts}; {sum(system.values()):.2f} in all, the load's own {load:.2f} left out"
        )
    for line in result.counts:
        print(f"  a saga       {line}")
    if result.peak_megabytes:
        parts = ", ".join(f"{name} {mb:.0f}" for name, mb in sorted(result.peak_megabytes.items()))
        print(f"  peak MB      {parts}")
    for note in result.notes:
        print(f"  {note}")
    for verdict in result.verdicts:
        print(f"  target       {verdict.text}")
    for problem in result.all_problems:
        print(f"  FAIL         {problem}")


def tell_targets(run: Run) -> None:
    """Those of all scenarios, in the end: a table."""
    if run.verdicts:
        print(f"\n{run.targets_met}")
    for name, verdict in run.verdicts:
        wanted, measured = f"{verdict.wanted:<34}", f"{verdict.measured:>16}"
        print(f"  {name:<12} {verdict.figure:<34} {wanted} {measured}  {verdict.word}")


def _is_dull(name: str, figures: Mapping[str, float]) -> bool:
    return name.startswith("refused") and not figures[name]


def _figure(name: str, figures: Mapping[str, float]) -> str:
    return f"{FIGURES[name].label} {FIGURES[name].text(figures[name])}"
