"""Reserves stock for orders, all lines or none, and sells or releases it."""
