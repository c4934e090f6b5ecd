"""Why sagas wait: asked of the services, kept for afterwards, and what a person can do about it."""
