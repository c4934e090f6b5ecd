"""The passive observer: receives every fact, rebuilds each order's saga from them, and shows it."""
