"""`python -m saga_tracker`: the tracker as a process. `python -m saga_tracker rebuild`: its view, anew."""

import argparse
import sys

from saga_tracker.service import main, main_rebuild

parser = argparse.ArgumentParser(prog="python -m saga_tracker", description="Watches every order's saga.")
commands = parser.add_subparsers(dest="command")
rebuild = commands.add_parser(
    "rebuild", help="drop the view and rebuild it from the stream; the tracker may go on running"
)
rebuild.add_argument(
    "--forget-missing",
    action="store_true",
    help="also facts of sagas under way that the stream no longer has; those of ended sagas stay",
)
arguments = parser.parse_args()
if arguments.command == "rebuild":
    sys.exit(main_rebuild(forget_missing=arguments.forget_missing))
main()
