"""What turns a `decide` into a running service: the worker and its batches, settings, loops, the process."""
