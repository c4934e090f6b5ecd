"""What every adapter must do, whatever its party does: an adapter is accepted by passing its suite."""
