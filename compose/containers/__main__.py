"""`python3 -m compose.containers COMMAND`: the system in containers. Up and down need Docker and no more."""

import argparse
import sys

from compose.containers.engine import engine_problem
from compose.containers.stack import Stack, cluster_stack
from compose.local.commands import RigError

COMMANDS = {
    "up": "make the secrets, build the image, start everything and wait until it is healthy",
    "down": "stop everything and remove the containers, keep the data",
    "demo": "play the demo's scenarios against the containers (needs .venv)",
    "check": "check the invariants of the running containers (needs .venv)",
}


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code; an expected failure is one line, no traceback."""
    parser = argparse.ArgumentParser(prog="python3 -m compose.containers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, meaning in COMMANDS.items():
        command = commands.add_parser(name, help=meaning)
        command.add_argument("--cluster", action="store_true", help="three broker nodes, and replicas")
        if name == "down":
            command.add_argument("--delete-data", action="store_true", help="delete the volumes, too")
        if name == "demo":
            command.add_argument("--only", action="append", help="play this scenario alone; may be repeated")
    given = parser.parse_args(arguments)
    try:
        if (problem := engine_problem()) is not None:
            raise RigError(f"no containers can run here: {problem}")
        return 0 if _carry_out(given) else 1
    except RigError as error:
        lines = [f"error: {error}", error.details] if error.details else [f"error: {error}"]
        sys.stderr.write("\n".join(lines) + "\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _carry_out(given: argparse.Namespace) -> bool:
    stack = cluster_stack() if given.cluster else Stack()
    if given.command == "up":
        stack.up()
    elif given.command == "down":
        stack.down(delete_data=given.delete_data)
    else:
        return _judge(stack, given)
    return True


def _judge(stack: Stack, given: argparse.Namespace) -> bool:
    """What needs the environment of this checkout is imported only now."""
    from compose.check import check
    from compose.cli import report_console
    from compose.containers.rig import ContainerRig, ReplicaRig
    from compose.demo.command import SETTINGS, demo
    from compose.local.commands import ending_in_order

    runs = any(container.runs for container in stack.containers())
    rig_of = ReplicaRig if given.cluster else ContainerRig
    with ending_in_order():
        if given.command == "demo" and runs:
            return demo(rig_of(stack), report_console(), given.only or ())
        if given.command == "demo":
            with stack.with_settings(SETTINGS) as stack_of_demo:
                return demo(rig_of(stack_of_demo), report_console(), given.only or ())
        if not runs:
            raise RigError("nothing is running: make compose-up starts it")
        return check(rig_of(stack), report_console())


if __name__ == "__main__":
    sys.exit(main())
