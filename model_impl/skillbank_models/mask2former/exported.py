"""The graph that is exported: the network and the part of post-processing that needs no threshold."""

from __future__ import annotations

from torch import Tensor, nn

from skillbank_models.deploy.segmentation_outputs import OUTPUTS, graph_outputs
from skillbank_models.mask2former.model import Mask2Former

__all__ = ["ExportedMask2Former"]


class ExportedMask2Former(nn.Module):
    """Normalised images to the outputs of a mode, in the order of `outputs`.

    Args:
        model: the network.
        mode: semantic, instance or panoptic.
        topk: instances kept in instance mode.
    """

    def __init__(self, model: Mask2Former, *, mode: str, topk: int) -> None:
        super().__init__()
        self.model = model
        self.mode = mode
        self.topk = topk

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what forward returns."""
        return OUTPUTS[self.mode]

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Predict; `inputs` are (B, 3, H, W) normalised RGB, see `graph_outputs` for what comes back."""
        size = (inputs.shape[2], inputs.shape[3])
        return graph_outputs(self.model(inputs, all_layers=False), size, mode=self.mode, topk=self.topk)
