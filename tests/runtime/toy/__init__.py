"""A service made for these tests: it counts what it receives, and rings outside when told to."""
