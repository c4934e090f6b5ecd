"""What must be true of the whole system: one set of rules for `make check`, drills and reconciliation."""
