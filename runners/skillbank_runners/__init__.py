"""Command lines and job processes."""
