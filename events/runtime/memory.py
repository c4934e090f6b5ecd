"""What a long-running process does about Python's garbage collector."""

import gc

GARBAGE_THRESHOLD = 20_000


def collect_garbage_rarely() -> None:
    """Leave alone what is loaded by now; messages are freed by counting. Else it takes a sixth of the CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)
