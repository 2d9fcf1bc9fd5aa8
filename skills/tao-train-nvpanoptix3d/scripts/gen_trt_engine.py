#!/usr/bin/env python3
"""Builds a TensorRT engine from the exported 2D model: the stand-alone form of the action gen_trt_engine."""

import sys

try:
    from skillbank_runners.cli.gen_trt_engine import main
except ImportError:
    sys.exit("skillbank is not installed for this Python; pip install skillbank, see the skill tao-setup")

if __name__ == "__main__":
    sys.exit(main())
