"""The passive observer: hears every fact, rebuilds each order's saga from them, and shows it."""
