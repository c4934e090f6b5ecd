"""Calls to the outside world: their dispatcher, retries, circuits, and HTTP as a gateway speaks it."""
