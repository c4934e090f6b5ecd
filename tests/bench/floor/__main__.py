"""Measures the floor alone, on a rig's servers: `python -m tests.bench.floor`."""

import argparse
import asyncio
import sys
from pathlib import Path

from compose.local.commands import RigError, ending_in_order
from compose.local.rig import LocalRig
from tests.bench.floor.measure import measure_floor
from tests.servers import rig_folder


def main() -> int:
    """Prints two lines for each number of sagas under way."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.floor", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each is measured")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[150], help="how many are under way")
    parser.add_argument("--state", help="state folder of a running rig (default: servers of its own)")
    given = parser.parse_args()
    try:
        with ending_in_order():
            if given.state:
                _measure(LocalRig(Path(given.state)), given.in_flight, given.seconds)
                return 0
            with rig_folder() as folder:
                rig = LocalRig(folder)
                rig.up_servers()
                _measure(rig, given.in_flight, given.seconds)
    except RigError as error:
        print(f"floor: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(rig: LocalRig, numbers: list[int], seconds: float) -> None:
    for in_flight in numbers:
        print(asyncio.run(measure_floor(rig, in_flight, seconds)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
