"""For all tests: each process computes on one thread, since several of them share the cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
