"""A command that uses a rig of stand-ins until it is told to end: `python -m tests.runtime.rig_command DIR`.

Prints `starting NAME` and `ready NAME` as the rig comes up, then `running`.
"""

import sys
import time
from pathlib import Path

from compose.local.commands import Progress, ending_in_order
from compose.local.rig import LocalRig
from tests.runtime.standin_system import standin_blueprint


class PrintedProgress(Progress):
    def starting(self, name: str) -> None:
        print("starting", name, flush=True)

    def ready(self, name: str) -> None:
        print("ready", name, flush=True)


def main() -> None:
    rig = LocalRig(Path(sys.argv[1]), blueprint=standin_blueprint(), progress=PrintedProgress())
    with ending_in_order(), rig.running():
        print("running", flush=True)
        time.sleep(300)


if __name__ == "__main__":
    main()
