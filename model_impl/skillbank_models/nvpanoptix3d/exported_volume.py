"""The 3D part as a graph for other runtimes: lifted features to distances and mask embeddings of voxels.

The graph is sparse: lists of voxels go in and come out, and their lengths follow from the data. A dense form
would need 34 GB for the 512 projected channels at 256 voxels per side and 4 GB at 128. Tables of neighbours
as inputs would have to be made between the levels, since each level decides which voxels the next one has.
With lists the graph needs about the memory of the network itself, at any side, and only standard operators.

Letters: `N` voxels, `Q` queries, `C` channels, `K` classes, `f` base width, `o` width of the finest level,
`G` side of the grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skillbank_models.nvpanoptix3d import volume_graph as graph
from skillbank_models.nvpanoptix3d.frustum_blocks import SparseBlock
from skillbank_models.nvpanoptix3d.frustum_decoder import FrustumDecoder, VoxelHead
from skillbank_models.nvpanoptix3d.frustum_encoder import CoarseGrids
from skillbank_models.nvpanoptix3d.frustum_pruning import coarse_frustum
from skillbank_models.nvpanoptix3d.volume_graph import Voxels

__all__ = ["COORDS", "OUTPUTS", "ExportedVolume"]

COORDS = "voxel_coords"
OUTPUTS = (COORDS, "voxel_distance", "voxel_embeds", "voxel_queries")


class ExportedVolume(nn.Module):
    """The frustum decoder for one image, on lists of voxels.

    Inputs are not limited to `max_voxels`; all that is made of them is.

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
        scale_2_coords: Tensor | None = None,
        scale_2: Tensor | None = None,
        scale_4_coords: Tensor | None = None,
        scale_4: Tensor | None = None,
        scale_8_coords: Tensor | None = None,
        scale_8: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Complete the volume.

        Args:
            projected_coords: (N, 3) int64 x, y, z, each voxel once.
            distance: (N, 2) or (N, 1), sign and magnitude.
            appearance: (N, C).
            classes: (N, K).
            lifted_coords: (N', 3) int64.
            lifted: (N', K + 3).
            queries: (Q, C') of the 2D decoder.
            frustum: (G, G, G) bool.
            scale_2_coords: (M, 3) int64, coarse voxels of stride 2; this and the next with `use_multi_scale`.
            scale_2: (M, C + K + 3).
            scale_4_coords: the same of stride 4.
            scale_4: their features.
            scale_8_coords: the same of stride 8.
            scale_8: their features.

        Returns:
            coords (N'', 3) int64 of occupied voxels, their distance to the nearest surface (N'',) in voxels,
            their mask embeddings (N'', o), and queries (Q, o): their inner products are mask logits.
        """
        decoder = self.decoder
        projected = graph.voxels_at(distance, projected_coords, decoder.side)
        filled = graph.voxels_at(lifted, lifted_coords, decoder.side)
        given = ((2, scale_2_coords, scale_2), (4, scale_4_coords, scale_4), (8, scale_8_coords, scale_8))
        scales = {
            stride: graph.voxels_at(features, coords, decoder.side // stride)
            for stride, coords, features in given
            if coords is not None and features is not None
        }
        half, quarter, grids = self._encode(projected, appearance, classes, filled, scales)
        inside = coarse_frustum(frustum[None], 4)  # (1, G/4, G/4, G/4)
        grid, logits = decoder.coarse(grids, inside)
        keep = (logits[0] > 0.0) & inside[0]
        kept = graph.voxels_in(keep | (inside[0] & ~keep.any()))
        parents = graph.join(kept.with_features(graph.read_grid(grid[0], kept.coords)), quarter)  # (N, 6 f)
        scores = graph.read_grid(logits, parents.coords)[:, 0]  # (N,)
        parents, scores = self._half(parents, scores, half, coarse_frustum(frustum[None], 2)[0])
        return *self._full(parents, scores, frustum), decoder.fine.query(queries)

    def _encode(
        self,
        projected: Voxels,
        appearance: Tensor,
        classes: Tensor,
        lifted: Voxels,
        scales: dict[int, Voxels],
    ) -> tuple[Voxels, Voxels, CoarseGrids]:
        """Side G/2, side G/4, and the full grids."""
        encoder = self.decoder.encoder
        parts = [
            graph.block(projected, encoder.distance),
            graph.block(projected.with_features(appearance), encoder.appearance),
            graph.block(projected.with_features(classes), encoder.classes),
        ]
        shown = projected.with_features(torch.cat([part.features for part in parts], 1))  # (N, 3 f)
        joined = graph.join(shown, graph.block(lifted, encoder.lifted))  # (N', 4 f)
        half = graph.block(graph.block(joined, encoder.to_half), encoder.at_half)  # (N, f)
        half = self._with_scale(half, scales, 2)
        quarter = graph.block(graph.block(half, encoder.to_quarter), encoder.at_quarter)  # (N, 2 f)
        quarter = self._with_scale(quarter, scales, 4)
        coarsest = None
        if encoder.scales:
            coarsest = graph.grid_of(graph.block(scales[8], _sparse(encoder.scales[2])))[
                None
            ]  # (1, 4 f, G/8, ., .)
        return half, quarter, encoder.coarsen(graph.grid_of(quarter)[None], coarsest)

    def _with_scale(self, x: Voxels, scales: dict[int, Voxels], stride: int) -> Voxels:
        """Coarse features added to those of a level; voxels of either remain."""
        encoder = self.decoder.encoder
        if not encoder.scales:
            return x
        own = x.with_features(F.pad(x.features, (0, 1), value=1.0))  # (N, C + 1)
        joined = graph.join(
            own, graph.block(scales[stride], _sparse(encoder.scales[stride // 4]))
        )  # (N', 2 C + 1)
        width = x.features.shape[1]
        both = joined.with_features(joined.features[:, :width] + joined.features[:, width + 1 :])
        return graph.select(both, graph.best(joined.features[:, width], self.max_voxels))

    def _half(
        self, parents: Voxels, scores: Tensor, encoded: Voxels, within: Tensor
    ) -> tuple[Voxels, Tensor]:
        """Parents (N, 3 f) of the finest level, and how occupied each is."""
        level = self.decoder.middle
        x = graph.generate(self._affordable(parents, scores, within), level.up, within)
        x = graph.block(x.with_features(F.relu(graph.norm(x.features, level.norm))), level.block)  # (N, 2 f)
        logits = F.linear(x.features, level.occupancy.weight, level.occupancy.bias)[:, 0]  # (N,)
        joined = graph.join(graph.select(x, _survivors(logits)), encoded)  # (N', 3 f)
        return joined, graph.look_up(x.with_features(logits[:, None]), joined.coords, missing=-torch.inf)[
            :, 0
        ]

    def _full(self, parents: Voxels, scores: Tensor, within: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Coordinates, distances and embeddings of occupied voxels."""
        level = self.decoder.fine
        x = graph.generate(self._affordable(parents, scores, within), level.up, within)  # (N, o)
        x = x.with_features(F.relu(graph.norm(x.features, level.norm)))
        kept = graph.select(x, _survivors(_head(x, level.occupancy)[:, 0]))
        distance = _head(kept, level.geometry)[:, 0].clamp(0.0, level.truncation)
        return kept.coords, distance, _head(kept, level.embed)

    def _affordable(self, parents: Voxels, scores: Tensor, within: Tensor) -> Voxels:
        """The most occupied parents: no more than are allowed, nor with more children than are allowed."""
        best = graph.best(scores, self.max_voxels) & graph.fits(parents, scores, within, self.max_voxels)
        return graph.select(parents, best)


def _sparse(layer: nn.Module) -> SparseBlock:
    assert isinstance(layer, SparseBlock)
    return layer


def _survivors(logits: Tensor) -> Tensor:
    """See `frustum_pruning.survivors`."""
    keep = logits > 0.0
    return keep | ~keep.any()


def _head(x: Voxels, head: VoxelHead) -> Tensor:
    """(N, 1), or (N, o) of the embedding."""
    y = graph.block(x.with_features(F.relu(graph.norm(x.features, head.norm))), head.block)
    return y.features if head.out is None else graph.submanifold(y, head.out)
