"""Owns the fate of each order: placed, confirmed at the pivot, or withdrawn and cancelled."""
