"""The four command lines."""
