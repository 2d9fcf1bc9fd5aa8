"""Jobs: what is recorded of them, their states, artifacts and status events."""
