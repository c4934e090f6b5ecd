"""What a service keeps: database sessions, inbox and outbox tables, repository, retention."""
