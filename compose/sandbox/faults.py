"""Misbehaviour on purpose: by test token or address (`Manner`), and for a whole party (`PUT /faults`)."""

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Literal, get_args

from pydantic import Field

from compose.sandbox.http import Body, Problem

Target = Literal["provider", "carrier", "push", "mail", "directory"]
TARGETS: tuple[Target, ...] = get_args(Target)
MAX_LATENCY_SECONDS = 60
FLAKY_FAILURES = 2


class Manner(StrEnum):
    """How a party goes about one operation."""

    WELL = "well"
    SLOW = "slow"
    """Does the work, answers late."""
    FAILS = "fails"
    """500, always; never does the work."""
    FLAKY = "flaky"
    """503 to the first two attempts at each operation, then well."""
    LOST = "lost"
    """Does the work, then closes the connection without an answer; a repeat is answered."""


class FaultRule(Body):
    """What `PUT /faults` takes. Drawn with a seed, so a drill can be repeated."""

    target: Literal[Target, "all"] = "all"
    latency_seconds: float = Field(default=0, ge=0, le=MAX_LATENCY_SECONDS)
    fail_rate: float = Field(default=0, ge=0, le=1, description="503 before any work")
    lose_answer_rate: float = Field(
        default=0, ge=0, le=1, description="the work is done, the answer is not sent"
    )
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """What one request meets."""

    latency_seconds: float = 0
    fails: bool = False
    loses_answer: bool = False


NO_FAULT = Fault()


class Faults:
    """The rules in force, one a target; a later rule for the same target replaces the earlier."""

    def __init__(self) -> None:
        self._rules: dict[Target, tuple[FaultRule, Random]] = {}

    def put(self, rule: FaultRule) -> None:
        """Put a rule in force."""
        for target in TARGETS if rule.target == "all" else (rule.target,):
            # One generator a target: what one party draws does not depend on the traffic of another.
            self._rules[target] = (rule, Random(f"{rule.seed}:{target}"))  # noqa: S311 - not for secrets

    def clear(self) -> None:
        """Behave again."""
        self._rules.clear()

    def in_force(self) -> dict[str, FaultRule]:
        """Target by target, the rule in force."""
        return {target: rule for target, (rule, _random) in self._rules.items()}

    def draw(self, target: Target) -> Fault:
        """What the next request to this party meets."""
        if not self._rules or target not in self._rules:
            return NO_FAULT
        rule, random = self._rules[target]
        return Fault(
            latency_seconds=rule.latency_seconds,
            fails=random.random() < rule.fail_rate,
            loses_answer=random.random() < rule.lose_answer_rate,
        )


class Delays:
    """Answers made to wait, with a bound on how many wait at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting = 0

    async def wait(self, seconds: float) -> None:
        """Hold one answer back. Raises Problem (503, Retry-After) when too many wait already."""
        if self._waiting >= self._limit:
            raise Problem(
                503,
                "too-many-waiting",
                "Too many slow requests",
                f"{self._limit} answers are being held back already",
                headers={"Retry-After": "1"},
            )
        self._waiting += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._waiting -= 1
