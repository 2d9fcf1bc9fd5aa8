"""Measures, exact over any number of processes."""
