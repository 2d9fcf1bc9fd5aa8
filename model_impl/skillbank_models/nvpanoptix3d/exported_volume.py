"""The 3D part as a graph for other runtimes: lifted features to distances and mask embeddings of voxels.

The graph is sparse: lists of voxels go in and come out, and their lengths follow from the data. A dense form
would need 34 GB for the 512 projected channels at 256 voxels per side, 4 GB at 128; tables of neighbours as
inputs would have to be made between the levels, since a level decides which voxels the next one has. With
lists the graph needs the memory of the network itself, and only standard operators.

Letters: `N` voxels, `Q` queries, `C` channels, `K` classes, `G` side of the grid.
"""

from __future__ import annotations

from torch import Tensor, nn

from skillbank_models.nvpanoptix3d import volume_graph as graph
from skillbank_models.nvpanoptix3d.frustum_decoder import FrustumDecoder
from skillbank_models.nvpanoptix3d.frustum_pruning import coarse_frustum

__all__ = ["OUTPUTS", "ExportedVolume", "graph_inputs"]

OUTPUTS = ("coords", "distance", "embeds", "voxel_queries")
SCALES = 3


class ExportedVolume(nn.Module):
    """The frustum decoder for one image, on lists of voxels.

    Args:
        decoder: the network.
        max_voxels: most voxels at one resolution.
    """

    def __init__(self, decoder: FrustumDecoder, *, max_voxels: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.max_voxels = max_voxels

    def forward(
        self,
        projected_coords: Tensor,
        distance: Tensor,
        appearance: Tensor,
        classes: Tensor,
        lifted_coords: Tensor,
        lifted: Tensor,
        queries: Tensor,
        frustum: Tensor,
        **scales: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Complete the volume.

        Args:
            projected_coords: (N, 3) int64 x, y, z, each voxel once.
            distance: (N, 2) or (N, 1).
            appearance: (N, C).
            classes: (N, K).
            lifted_coords: (N', 3) int64.
            lifted: (N', K + 3).
            queries: (Q, C) of the 2D decoder.
            frustum: (G, G, G) bool.
            scales: with `use_multi_scale` ``scale_0_coords``, ``scale_0`` and so on.

        Returns:
            coords (N, 3) int64 of occupied voxels, their distance to the nearest surface (N,) in voxels, their
            mask embeddings (N, o), and the queries (Q, o) whose inner product with these is a mask logit.
        """
        decoder = self.decoder
        side = decoder.side
        projected = graph.voxels_at(distance, projected_coords, side)
        pyramid = self._encode(
            projected, appearance, classes, graph.voxels_at(lifted, lifted_coords, side), scales
        )
        inside = coarse_frustum(frustum[None], 4)  # (1, G/4, G/4, G/4)
        grid, occupancy, _, _ = decoder.coarse(pyramid.grids, queries[None], inside)
        keep = (occupancy[0] > 0.0) & inside[0]
        keep = keep | (inside[0] & ~keep.any())
        kept = graph.voxels_in(keep)
        kept = kept.with_features(_read(grid[0], kept.coords))
        parents = graph.join(kept, pyramid.quarter)
        scores = _read(occupancy, parents.coords)[:, 0]
        parents, scores = self._capped(parents, scores)
        parents, scores = self._half(parents, scores, pyramid.half, coarse_frustum(frustum[None], 2)[0])
        return self._full(parents, scores, queries, frustum)
