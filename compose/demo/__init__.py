"""`make demo`: a handful of orders, each of which goes another way, shown fact by fact as they unfold."""
