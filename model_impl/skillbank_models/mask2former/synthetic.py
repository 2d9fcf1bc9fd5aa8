"""Made-up data for Mask2Former."""

from __future__ import annotations

from skillbank_models.data.synthetic_shapes import SHAPES

__all__ = ["SYNTHETIC"]

SYNTHETIC = SHAPES
