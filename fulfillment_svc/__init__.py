"""Books, cancels and dispatches an order's shipment."""
