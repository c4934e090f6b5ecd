"""Two commits against each other in one run, in turns: `make bench-compare A=HEAD~1 B=HEAD`.

Each commit is checked out beside this one and runs a system of its own, with the dependencies that it names.
Only one of them is up at a time; the turns are A B B A and so on, for a machine is not as fast at all times.
The load is always this checkout's. Figures that differ less than two turns of one commit tell nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import inf, isinf
from pathlib import Path
from typing import NamedTuple

import uvloop

from compose.local.commands import RigError, ending_in_order, uninterrupted
from compose.local.provision import ALL_IN_ONE
from compose.local.rig import LocalRig
from compose.local.state import CHECKOUT, DEFAULT_STATE_DIR, exclusive
from tests.bench.cpu import LOAD
from tests.bench.results import FIGURES, Round, medians
from tests.bench.runner import LOCK_FILE
from tests.bench.scenarios.rates import PEAK_PER_SECOND
from tests.bench.scenarios.sustained import ALL_IN_ONE_IN_FLIGHT
from tests.bench.stage import Choices, Stage, staged

LOCK = "requirements.lock"
REPORT = "bench-compare.json"
IN_FLIGHT = 300
SECONDS = 15.0
PEAK_SECONDS = 30.0


class Compared(NamedTuple):
    """What is compared, and how B / A is wanted to be where A is the YARDSTICK."""

    title: str
    kind: str
    """Among FIGURES, or CPU."""
    at_least: float = -inf
    at_most: float = inf

    def wanted(self, ratio: float) -> str:
        """What became of it."""
        if isinf(self.at_least) and isinf(self.at_most):
            return ""
        bound = f"at least {self.at_least:g}" if isinf(self.at_most) else f"at most {self.at_most:g}"
        return f"{bound}: {'met' if self.at_least <= ratio <= self.at_most else 'MISSED'}"


CPU = "cpu_ms"
# The last release that put frames, HTTP and mail together by hand.
YARDSTICK = "cd5a45f"
# The CPU time is without the load's own.
COMPARED: Mapping[str, Compared] = {
    "most": Compared("most, closed loop", "ended_per_second", at_least=0.9),
    "most_all_in_one": Compared("most, all in one process", "ended_per_second", at_least=1.1),
    "cpu_at_most": Compared("CPU ms a saga, closed loop", CPU),
    "p50_at_50": Compared("p50 at 50 a second", "end_to_end_p50_ms"),
    "p99_at_50": Compared("p99 at 50 a second", "end_to_end_p99_ms"),
    "cpu_at_50": Compared("CPU ms a saga at 50 a second", CPU),
    "cpu_at_100": Compared("CPU ms a saga at 100 a second", CPU, at_most=0.6),
    "p99_at_100": Compared("p99 at 100 a second", "end_to_end_p99_ms", at_most=0.7),
    "notified_p50_at_peak": Compared("notified, p50 at 200 a minute", "notified_p50_ms", at_most=1.0),
    "notified_p99_at_peak": Compared("notified, p99 at 200 a minute", "notified_p99_ms", at_most=1.0),
}
# One that was made before there was this form is compared in its own.
ALL_IN_ONE_MODULE = Path("compose/all_in_one.py")


@dataclass(slots=True)
class Side:
    """One of the two: a commit in a folder of its own, and what its turns found."""

    name: str
    commit: str
    folder: Path
    python: Path
    turns: list[dict[str, float]] = field(default_factory=list)
    cpu_ms: list[dict[str, float]] = field(default_factory=list)

    def compose(self, *arguments: str) -> None:
        """Run this commit's own command line. Raises RigError with what it said."""
        run([str(self.python), "-m", "compose", *arguments], self.folder)


def main() -> int:
    """Prints a line for each turn, and the medians side by side; exit code 1 when an order was lost."""
    given = _arguments()
    DEFAULT_STATE_DIR.mkdir(mode=0o711, exist_ok=True)
    try:
        with (
            ending_in_order(),
            exclusive(DEFAULT_STATE_DIR / LOCK_FILE, lambda: print("waiting for another bench")),
            ExitStack() as stack,
        ):
            base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="murmuration-compare-")))
            base.chmod(0o711)  # PostgreSQL may have to run as another user
            names = {"A": given.a, "B": given.b}
            sides = [stack.enter_context(checked_out(*pair, base)) for pair in names.items()]
            for number, side in enumerate(in_turns(sides, given.rounds), 1):
                print(f"[{number}/{2 * given.rounds}] {side.name} {side.commit[:10]}: ", end="", flush=True)
                print(take_turn(side, given.in_flight))
            tell(sides)
    except RigError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


def in_turns(sides: Sequence[Side], rounds: int) -> Iterator[Side]:
    """A B, B A, A B, ..."""
    for number in range(rounds):
        yield from sides if number % 2 == 0 else reversed(sides)


@contextmanager
def checked_out(name: str, revision: str, base: Path) -> Iterator[Side]:
    """Inside, a commit lies in a folder; afterwards its system and the folder are gone."""
    commit = run(["git", "rev-parse", "--verify", f"{revision}^{{commit}}"], CHECKOUT).strip()
    folder = base / name.lower()
    run(["git", "worktree", "add", "--detach", str(folder), commit], CHECKOUT)
    side = Side(name, commit, folder, Path(sys.executable))
    try:
        if (folder / LOCK).read_bytes() != (CHECKOUT / LOCK).read_bytes():
            print(f"{name} names other dependencies: making an environment for it", flush=True)
            run(["make", ".venv/.ready"], folder)
            side.python = folder / ".venv" / "bin" / "python"
        yield side
    finally:
        with uninterrupted():
            try:
                side.compose("down", "--delete-data")
            finally:
                run(["git", "worktree", "remove", "--force", str(folder)], CHECKOUT)


def take_turn(side: Side, in_flight: int) -> str:
    """Start its system, load it, stop it; what was found, in a line."""
    found = _measured(side, "up", lambda stage: _at_all_rates(stage, in_flight))
    most = found["most"]
    side.cpu_ms.append(most.cpu_ms)
    turn = {
        "most": most.figures["ended_per_second"],
        "most_all_in_one": most.figures["ended_per_second"],
        "cpu_at_most": _of_the_system(most),
        "p50_at_50": found["at_50"].figures["end_to_end_p50_ms"],
        "p99_at_50": found["at_50"].figures["end_to_end_p99_ms"],
        "cpu_at_50": _of_the_system(found["at_50"]),
        "cpu_at_100": _of_the_system(found["at_100"]),
        "p99_at_100": found["at_100"].figures["end_to_end_p99_ms"],
        "notified_p50_at_peak": found["at_peak"].figures["notified_p50_ms"],
        "notified_p99_at_peak": found["at_peak"].figures["notified_p99_ms"],
    }
    if (side.folder / ALL_IN_ONE_MODULE).exists():
        alone = _measured(side, ALL_IN_ONE, _in_one_process)["most"]
        turn["most_all_in_one"] = alone.figures["ended_per_second"]
    side.turns.append(turn)
    return ", ".join(f"{what.title} {_text(name, turn[name])}" for name, what in COMPARED.items())


def _measured(
    side: Side, command: str, measure: Callable[[Stage], Awaitable[dict[str, Round]]]
) -> dict[str, Round]:
    side.compose(command)
    try:
        rig = LocalRig(side.folder / ".murmuration", environment=_environment())
        found = uvloop.run(_on_stage(rig, measure))
    finally:
        with uninterrupted():
            side.compose("down")
    for each in found.values():
        if each.not_ended or each.problems:
            raise RigError(f"{side.name}: {each.not_ended} orders did not end; {each.problems}")
    return found


async def _on_stage(
    rig: LocalRig, measure: Callable[[Stage], Awaitable[dict[str, Round]]]
) -> dict[str, Round]:
    async with staged(rig, Choices(1), print) as stage:
        await stage.warm_up()
        return await measure(stage)


async def _at_all_rates(stage: Stage, in_flight: int) -> dict[str, Round]:
    return {
        "at_peak": await stage.measure(stage.load.at_rate(PEAK_PER_SECOND, PEAK_SECONDS)),
        "at_50": await stage.measure(stage.load.at_rate(50.0, SECONDS)),
        "at_100": await stage.measure(stage.load.at_rate(100.0, SECONDS)),
        "most": await stage.keep(in_flight, SECONDS),
    }


async def _in_one_process(stage: Stage) -> dict[str, Round]:
    return {"most": await stage.keep(ALL_IN_ONE_IN_FLIGHT, SECONDS)}


def tell(sides: Sequence[Side]) -> None:
    """The medians and how they relate, on the terminal and as JSON."""
    a, b = (medians(side.turns) for side in sides)
    print(
        f"\n{'median':<32} {'A ' + sides[0].commit[:10]:>14} {'B ' + sides[1].commit[:10]:>14} {'B / A':>8}"
    )
    judged = sides[0].commit.startswith(YARDSTICK)
    for name, what in COMPARED.items():
        ratio = b[name] / a[name]
        wanted = f"  {what.wanted(ratio)}".rstrip() if judged else ""
        print(f"{what.title:<32} {_text(name, a[name]):>14} {_text(name, b[name]):>14} {ratio:>8.2f}{wanted}")
    by_part = [medians(side.cpu_ms) for side in sides]
    for part in by_part[0]:
        of_a, of_b = by_part[0][part], by_part[1].get(part, 0.0)
        print(f"  CPU ms of {part:<20} {of_a:>14.2f} {of_b:>14.2f} {of_b / max(of_a, 0.001):>8.2f}")
    report = DEFAULT_STATE_DIR / REPORT
    by_side = {
        side.name: {"commit": side.commit, "turns": side.turns, "medians": medians(side.turns), "cpu_ms": cpu}
        for side, cpu in zip(sides, by_part, strict=True)
    }
    report.write_text(
        json.dumps({**by_side, "b_to_a": {name: b[name] / a[name] for name in COMPARED}}, indent=1)
    )
    print(f"report: {report}")


def run(command: Sequence[str], folder: Path) -> str:
    """What a command prints. Raises RigError with its output when it fails."""
    answer = subprocess.run(
        command, cwd=folder, env=_environment(), capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        output = (answer.stderr or answer.stdout).strip()
        raise RigError(f"{' '.join(command[:4])} failed in {folder}: {output[-2_000:]}")
    return answer.stdout


def _environment() -> dict[str, str]:
    """Ours, without settings that are meant for running this checkout's system."""
    foreign = ("MURMURATION_", "PYTHONPATH", "VIRTUAL_ENV", "MAKE")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


def _of_the_system(found: Round) -> float:
    return sum(ms for name, ms in found.cpu_ms.items() if name != LOAD)


def _text(name: str, value: float) -> str:
    kind = COMPARED[name].kind
    return f"{value:.2f}" if kind == CPU else FIGURES[kind].text(value)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.compare", description=__doc__)
    parser.add_argument("a", help="a commit")
    parser.add_argument("b", help="another")
    parser.add_argument("--rounds", type=int, default=3, help="how many turns each has")
    parser.add_argument(
        "--in-flight", type=int, default=IN_FLIGHT, help="orders under way in the closed loop"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
