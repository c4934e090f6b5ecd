"""Fault drills: break the running system on purpose, under load, and see that all of it lands consistent."""

# Of the state folder: where the system that is broken keeps its data.
FOLDER = "drills"
