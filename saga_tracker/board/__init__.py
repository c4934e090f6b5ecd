"""Pages for people: sagas by state, one saga along the time, dead letters. No scripts, nothing to load."""
