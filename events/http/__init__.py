"""The HTTP side of a process: application, problem details, limits, authentication, intake."""
