"""`make demo`: a handful of orders, each of which goes another way, told fact by fact as they unfold."""
