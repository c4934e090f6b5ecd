"""A supervised rig of stand-ins, as `make up` has it: `python -m tests.runtime.supervise_command DIR`."""

import sys
from pathlib import Path

from compose.local.commands import ending_in_order
from compose.local.rig import LocalRig
from compose.local.supervise import supervise
from tests.runtime.standin_system import standin_blueprint
from tests.runtime.test_local_rig import PREFIX


def main() -> None:
    with ending_in_order():
        supervise(LocalRig(Path(sys.argv[1]), blueprint=standin_blueprint(PREFIX)))


if __name__ == "__main__":
    main()
