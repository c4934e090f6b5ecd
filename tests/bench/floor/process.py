"""One process of the floor, a service or the tracker: `python -m tests.bench.floor.process`.

Who it is, it is told as a line of JSON on standard input: with passwords, so not on the command line.
"""

import json
import os
import sys

import uvloop

from events.messaging.topology import TRACKER
from tests.bench.floor.service import BareService
from tests.bench.floor.tracker import BareTracker
from tests.bench.floor.wiring import Assignment


def main() -> None:
    # Unbuffered: what comes behind the line is for the loop to read.
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(sys.stdin.fileno(), 1)
    mine = Assignment(**json.loads(line))
    uvloop.run((BareTracker(mine) if mine.name == TRACKER else BareService(mine)).run())


if __name__ == "__main__":
    main()
