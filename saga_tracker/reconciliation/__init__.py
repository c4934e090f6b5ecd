"""Compares the tracker's view with the services' own answers and the provider's ledger; fixes nothing."""
