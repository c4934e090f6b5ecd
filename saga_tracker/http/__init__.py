"""What the tracker answers over HTTP, and what a person does through it."""
