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


@dataclass(frozen=True, slots=True)
class Target:
    """What a drill may cost at most. One that allows more than the usual says why."""

    kept: float = 0.99
    """Of the orders that had every reason to complete, the share that has to."""
    manual: int = 0
    """How many orders may be left to a person that were not placed to need one."""
    ended_within_seconds: float = 60.0
    """How long after everything is healed the last order may end."""
    why: str = ""


USUAL = Target()


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a drill's faults cost. `sound` orders had every reason to complete."""

    sound: int
    completed: int
    """How many of the sound ones did."""
    manual: int = 0
    """How many orders are left to a person that were not placed to need one."""
    refused: int = 0
    """How many orders were answered "not now" (503) at least once."""
    turned_away: int = 0
    """How many of the refused ones gave up."""
    ended_after_seconds: float | None = None
    """How long after the last healing every order had ended; None when they have not."""
    on_their_way: int = 0
    """How many orders had not ended when the wait for them was given up."""
    still_ending: bool = False
    """Whether others of them were ending until then: the system was slow, not stuck."""

    @property
    def kept(self) -> float | None:
        """The share of sound orders that completed; None where there were none."""
        return self.completed / self.sound if self.sound else None

    @property
    def kept_text(self) -> str:
        """In percent, and never rounded up to all."""
        if self.kept is None:
            return "none placed"
        return f"{int(self.kept * 1000) / 10:.1f} %" if self.completed < self.sound else "100 %"

    @property
    def ended_text(self) -> str:
        """When everything had ended; or whether what had not was late or stuck."""
        if self.ended_after_seconds is not None:
            return f"{self.ended_after_seconds:.0f} s"
        return f"{self.on_their_way} {'not caught up' if self.still_ending else 'stuck'}"

    @property
    def refused_text(self) -> str:
        if not self.turned_away:
            return str(self.refused)
        return f"{self.refused} ({self.turned_away} for good)"


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
    recovery: Recovery | None = None
    """None where that could not be judged."""
    target: Target = USUAL

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
