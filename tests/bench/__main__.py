"""`make bench`: whole orders through a system made for it, counted and timed from outside."""

import argparse
import sys
from datetime import UTC, datetime

from compose.local.commands import RigError, ending_in_order
from compose.local.rig import LocalRig
from compose.local.state import DEFAULT_STATE_DIR, exclusive
from tests.bench.cpu import running_parts
from tests.bench.machine import describe_commit, describe_machine
from tests.bench.results import Run
from tests.bench.runner import LOCK_FILE, about_seconds, chosen_scenarios, play_all
from tests.bench.scenarios import SCENARIOS
from tests.bench.stage import Choices
from tests.bench.telling import tell_targets

ROUNDS = 3
# Of the quick run, which has no time to try what serves best.
QUICK_IN_FLIGHT = 300


def main() -> int:
    """Run the scenarios; exit code 1 when an accepted order did not end, or anything else was wrong."""
    given = _arguments()
    quick = not (given.all or given.only)
    choices = Choices(
        given.rounds or (1 if quick else ROUNDS),
        given.in_flight or (QUICK_IN_FLIGHT if quick else None),
        quick,
    )
    run = Run(describe_commit(), describe_machine(), datetime.now(UTC).isoformat(timespec="seconds"))
    try:
        scenarios = chosen_scenarios(given.only, every=given.all)
        print(f"{run.machine}: RabbitMQ, PostgreSQL, all services, the tracker, the sandbox and this load.")
        print("Every saga: six facts and more, five databases, confirms, quorum queues, fsync on.")
        print(f"{len(scenarios)} scenarios, about {about_seconds(scenarios, choices) / 60:.0f} min")
        DEFAULT_STATE_DIR.mkdir(mode=0o711, exist_ok=True)
        if len(running_parts(LocalRig())) > 1:
            print("note: a system is running in this checkout, and takes its share (make down stops it)")
        with ending_in_order(), exclusive(DEFAULT_STATE_DIR / LOCK_FILE, _wait):
            files = play_all(
                scenarios, choices, run, DEFAULT_STATE_DIR, lambda text: print(f"  {text}", flush=True)
            )
    except RigError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    tell_targets(run)
    print(f"\n{'all accepted orders ended' if run.passed else 'FAIL'}, {run.seconds:.0f} s")
    print(f"reports: {', '.join(map(str, files))}")
    return 0 if run.passed else 1


def _arguments() -> argparse.Namespace:
    names = ", ".join(scenario.name for scenario in SCENARIOS)
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help=f"some of: {names}")
    parser.add_argument(
        "--all", action="store_true", help="all of them that take no hour, in place of the main ones"
    )
    parser.add_argument("--rounds", type=int, help=f"how often each is played ({ROUNDS}; the main ones once)")
    parser.add_argument("--in-flight", type=int, help="orders under way where as many as it can are wanted")
    return parser.parse_args()


def _wait() -> None:
    print("another bench is running here: waiting until it is through", flush=True)


if __name__ == "__main__":
    sys.exit(main())
