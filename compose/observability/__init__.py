"""What the profile `observability` runs on: whom Prometheus asks, what needs a person, and the dashboard."""
