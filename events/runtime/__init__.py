"""What turns a `decide` into a running service: batches, outbox relay, calls, HTTP."""
