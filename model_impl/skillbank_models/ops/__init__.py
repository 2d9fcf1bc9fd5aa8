"""Operators: a plain torch form that runs everywhere, and faster ones where the machine has them."""
