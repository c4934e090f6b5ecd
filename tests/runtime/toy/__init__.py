"""A service made for these tests: it counts what it hears, and rings outside when told to."""
