"""What was measured, as plain values: rounds, their medians, a whole run."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import inf, isfinite
from typing import Any, NamedTuple


class Figure(NamedTuple):
    """How a figure is called and written."""

    label: str
    unit: str
    digits: int = 0

    def text(self, value: float) -> str:
        return f"{value:,.{self.digits}f} {self.unit}"


FIGURES: Mapping[str, Figure] = {
    "offered_per_second": Figure("offered", "/s", 1),
    "in_flight": Figure("kept in flight", "orders"),
    "accepted_per_second": Figure("accepted", "/s", 1),
    "post_p50_ms": Figure("POST p50", "ms", 1),
    "post_p99_ms": Figure("POST p99", "ms", 1),
    "published_per_second": Figure("published, confirmed", "/s", 1),
    "ended_per_second": Figure("sagas ended", "/s", 1),
    "share_of_floor_percent": Figure("share of the floor", "%", 1),
    "floor_per_second": Figure("the floor", "/s", 1),
    "notified_p50_ms": Figure("customer notified p50", "ms"),
    "notified_p99_ms": Figure("customer notified p99", "ms"),
    "end_to_end_p50_ms": Figure("end to end p50", "ms"),
    "end_to_end_p95_ms": Figure("end to end p95", "ms"),
    "end_to_end_p99_ms": Figure("end to end p99", "ms"),
    "end_to_end_max_ms": Figure("end to end max", "ms"),
    "tracker_lag_p50_ms": Figure("tracker lag p50", "ms"),
    "tracker_lag_max_ms": Figure("tracker lag max", "ms"),
    "tracker_behind_max": Figure("tracker behind at most", "messages"),
    "completed_percent": Figure("completed", "%", 1),
    "cancelled_percent": Figure("cancelled", "%", 1),
    "refused_percent": Figure("refused", "%", 1),
    "refused": Figure("refused with 503 and Retry-After", "POSTs"),
    "backlog_max": Figure("in flight at most", "orders"),
    "drain_seconds": Figure("drained after", "s", 1),
    "drained_per_second": Figure("drained at", "/s", 1),
    "decided_per_second": Figure("decided", "/s", 1),
    "sold": Figure("sold", "units"),
    "facts_per_second": Figure("facts read", "/s"),
    "facts": Figure("facts in the stream", "facts"),
    "share_of_empty_percent": Figure("share of an empty system's rate", "%", 1),
    "cpu_of_empty_percent": Figure("CPU of an empty system's", "%", 1),
    "page_p50_ms": Figure("a page p50", "ms"),
    "page_p95_ms": Figure("the slowest page's p95", "ms"),
    "share_without_tabs_percent": Figure("share of the rate without tabs", "%", 1),
    "memory_growth_percent": Figure("memory growth, the worst process", "%", 1),
}


class Target(NamedTuple):
    """What a figure is wanted to be: at least, or at most, so much."""

    figure: str
    at_least: float = -inf
    at_most: float = inf

    def verdict(self, figures: Mapping[str, float]) -> "Verdict":
        """What became of it. One whose figure was not measured is missed."""
        kind = FIGURES[self.figure]
        bounds = {"at least": self.at_least, "at most": self.at_most}
        wanted = " and ".join(f"{how} {kind.text(bound)}" for how, bound in bounds.items() if isfinite(bound))
        value = figures.get(self.figure)
        if value is None:
            return Verdict(False, kind.label, wanted, "not measured")
        return Verdict(self.at_least <= value <= self.at_most, kind.label, wanted, kind.text(value))


class Verdict(NamedTuple):
    """Whether a target was met: what of, what was wanted, what was measured."""

    met: bool
    figure: str
    wanted: str
    measured: str

    @property
    def word(self) -> str:
        return "met" if self.met else "MISSED"

    @property
    def text(self) -> str:
        return f"{self.figure} {self.wanted}: {self.word} with {self.measured}"


class Second(NamedTuple):
    """One second of a round: how many orders were accepted and ended in it, and were in flight after it."""

    accepted: int
    ended: int
    in_flight: int


@dataclass(slots=True)
class Round:
    """What one round found. `cpu_ms` and `per_saga` are for one saga, by part and by what was counted."""

    figures: dict[str, float] = field(default_factory=dict)
    accepted: int = 0
    not_ended: int = 0
    cpu_ms: dict[str, float] = field(default_factory=dict)
    peak_megabytes: dict[str, float] = field(default_factory=dict)
    seconds: list[Second] = field(default_factory=list)
    latency_ms_by_percentile: dict[str, float] = field(default_factory=dict)
    memory_megabytes: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """By part: seconds since the begin, and what it had of its own then."""
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def most_in_flight(self) -> int:
        """How many orders were in flight after the fullest second. Raises ValueError without seconds."""
        return max(second.in_flight for second in self.seconds)


@dataclass(slots=True)
class Result:
    """A scenario's rounds."""

    name: str
    title: str
    rounds: list[Round] = field(default_factory=list)
    targets: Sequence[Target] = ()
    per_saga: dict[str, dict[str, float]] = field(default_factory=dict)
    """What the servers counted, for one saga, over all rounds; empty where they do not tell."""
    counts: list[str] = field(default_factory=list)
    """The same in words."""
    added: dict[str, float] = field(default_factory=dict)
    """Further figures, measured once."""
    problems: list[str] = field(default_factory=list)
    """What was found after the rounds."""

    @property
    def figures(self) -> dict[str, float]:
        return {**medians(each.figures for each in self.rounds), **self.added}

    @property
    def cpu_ms(self) -> dict[str, float]:
        return medians(each.cpu_ms for each in self.rounds)

    @property
    def peak_megabytes(self) -> dict[str, float]:
        """The most of any round."""
        return most(each.peak_megabytes for each in self.rounds)

    @property
    def notes(self) -> list[str]:
        """Of all rounds, each once."""
        return list(dict.fromkeys(note for each in self.rounds for note in each.notes))

    @property
    def verdicts(self) -> list[Verdict]:
        """What became of each target. One that is missed is no failure: it is about this machine, too."""
        figures = self.figures
        return [target.verdict(figures) for target in self.targets]

    @property
    def all_problems(self) -> list[str]:
        lost = [f"{each.not_ended} accepted orders did not end" for each in self.rounds if each.not_ended]
        return [*lost, *(problem for each in self.rounds for problem in each.problems), *self.problems]

    def as_json(self) -> dict[str, Any]:
        found = {"figures": self.figures, "cpu_ms": self.cpu_ms, "peak_megabytes": self.peak_megabytes}
        targets = [verdict._asdict() for verdict in self.verdicts]
        return {**asdict(self), "targets": targets, "medians": found, "problems": self.all_problems}


@dataclass(slots=True)
class Run:
    """A whole run, as far as it has come."""

    commit: str
    machine: str
    began_at: str
    results: list[Result] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def verdicts(self) -> list[tuple[str, Verdict]]:
        """Of every target, by scenario."""
        return [(result.name, verdict) for result in self.results for verdict in result.verdicts]

    @property
    def targets_met(self) -> str:
        """How many of them, in words; nothing where there are none."""
        if not (verdicts := self.verdicts):
            return ""
        return f"{sum(verdict.met for _, verdict in verdicts)} of {len(verdicts)} targets met"

    @property
    def passed(self) -> bool:
        return not any(result.all_problems for result in self.results)

    def as_json(self) -> dict[str, Any]:
        return {
            "commit": self.commit,
            "machine": self.machine,
            "began_at": self.began_at,
            "seconds": self.seconds,
            "passed": self.passed,
            "scenarios": [result.as_json() for result in self.results],
        }


def number_of_rounds(count: int) -> str:
    return "1 round" if count == 1 else f"{count} rounds"


def medians(rounds: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """By name, the median of those rounds that have it."""
    return {name: statistics.median(values) for name, values in _by_name(rounds).items()}


def most(rounds: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """By name, the greatest of all rounds."""
    return {name: max(values) for name, values in _by_name(rounds).items()}


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of them do not exceed. Raises IndexError without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def _by_name(rounds: Iterable[Mapping[str, float]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for each in rounds:
        for name, value in each.items():
            found.setdefault(name, []).append(value)
    return found
