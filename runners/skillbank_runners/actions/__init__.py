"""What a job does, once for all networks."""
