"""Implementations of the networks."""
