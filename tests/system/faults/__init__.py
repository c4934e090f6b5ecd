"""Whatever breaks, every accepted order ends consistently, and every invariant holds."""
