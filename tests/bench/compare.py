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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from compose.local.commands import RigError, ending_in_order, uninterrupted
from compose.local.rig import LocalRig
from compose.local.state import CHECKOUT, DEFAULT_STATE_DIR, exclusive
from tests.bench.cpu import LOAD
from tests.bench.results import FIGURES, Round, medians
from tests.bench.runner import LOCK_FILE
from tests.bench.stage import Choices, staged

LOCK = "requirements.lock"
REPORT = "bench-compare.json"
IN_FLIGHT = 300
AT_RATE_PER_SECOND = 50.0
SECONDS = 15.0
COMPARED: Mapping[str, str] = {
    "ended_per_second": "most, closed loop",
    "cpu_ms": "CPU ms a saga, closed loop",
    "end_to_end_p50_ms": f"p50 at {AT_RATE_PER_SECOND:.0f} a second",
    "end_to_end_p99_ms": f"p99 at {AT_RATE_PER_SECOND:.0f} a second",
    "cpu_ms_at_rate": f"CPU ms a saga at {AT_RATE_PER_SECOND:.0f} a second",
}
"""What is compared, and how it is called; the CPU time is without the load's own."""


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
    side.compose("up")
    try:
        rig = LocalRig(side.folder / ".murmuration", environment=_environment())
        at_rate, most = uvloop.run(_measure(rig, in_flight))
    finally:
        with uninterrupted():
            side.compose("down")
    for found in (at_rate, most):
        if found.not_ended or found.problems:
            raise RigError(f"{side.name}: {found.not_ended} orders did not end; {found.problems}")
    side.cpu_ms.append(most.cpu_ms)
    turn = {
        "ended_per_second": most.figures["ended_per_second"],
        "cpu_ms": _of_the_system(most),
        "end_to_end_p50_ms": at_rate.figures["end_to_end_p50_ms"],
        "end_to_end_p99_ms": at_rate.figures["end_to_end_p99_ms"],
        "cpu_ms_at_rate": _of_the_system(at_rate),
    }
    side.turns.append(turn)
    return ", ".join(f"{title} {_text(name, turn[name])}" for name, title in COMPARED.items())


async def _measure(rig: LocalRig, in_flight: int) -> tuple[Round, Round]:
    async with staged(rig, Choices(1), print) as stage:
        await stage.warm_up()
        at_rate = await stage.measure(stage.load.at_rate(AT_RATE_PER_SECOND, SECONDS))
        return at_rate, await stage.keep(in_flight, SECONDS)


def tell(sides: Sequence[Side]) -> None:
    """The medians and how they relate, on the terminal and as JSON."""
    a, b = (medians(side.turns) for side in sides)
    print(
        f"\n{'median':<32} {'A ' + sides[0].commit[:10]:>14} {'B ' + sides[1].commit[:10]:>14} {'B / A':>8}"
    )
    for name, title in COMPARED.items():
        print(f"{title:<32} {_text(name, a[name]):>14} {_text(name, b[name]):>14} {b[name] / a[name]:>8.2f}")
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
    return FIGURES[name].text(value) if name in FIGURES else f"{value:.2f}"


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
