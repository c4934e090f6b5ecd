"""How a drill went, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from compose.drills.timeline import Timeline

Result = Literal["pass", "FAIL", "skipped"]


@dataclass(frozen=True, slots=True)
class Check:
    """Something that must be true after a drill, and what speaks against it."""

    sentence: str
    problems: tuple[str, ...] = ()


@dataclass(slots=True)
class Outcome:
    """One row of the report."""

    name: str
    title: str
    seconds: float = 0.0
    accepted: int = 0
    ends: Mapping[str, int] = field(default_factory=dict)
    """How many orders ended how."""
    checks: tuple[Check, ...] = ()
    services: Mapping[str, str] = field(default_factory=dict)
    """The end state of every server and process."""
    timeline: Timeline = field(default_factory=Timeline)
    skipped_because: str | None = None
    broke_off: list[str] = field(default_factory=list)
    """Why the drill itself could not go on."""

    def breaks_off(self, why: str) -> None:
        """Note that the drill could not go on."""
        self.broke_off.append(why)

    @property
    def problems(self) -> list[str]:
        """Everything that speaks against a pass."""
        found = [problem for check in self.checks for problem in check.problems]
        return [*self.broke_off, *found]

    @property
    def result(self) -> Result:
        if self.skipped_because:
            return "skipped"
        return "FAIL" if self.problems else "pass"


@dataclass(slots=True)
class Report:
    """All drills of one run, as far as it has come."""

    rig: str
    seed: int
    began_at: str
    seconds: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(outcome.result != "FAIL" for outcome in self.outcomes)

    @property
    def accepted(self) -> int:
        return sum(outcome.accepted for outcome in self.outcomes)

    def count(self, result: Result) -> int:
        return sum(outcome.result == result for outcome in self.outcomes)

    @property
    def headline(self) -> str:
        """The whole run in a line."""
        counts = f"{self.count('pass')} passed, {self.count('FAIL')} failed, {self.count('skipped')} skipped"
        return f"{counts}; {self.accepted} orders accepted under faults"
