"""Visible surface as voxels: depth pixels, a few voxels before and behind each, and what the image shows.

Letters: `B` batch, `K` classes, `C` channels, `h w` image plane of the 3D stage, `h' w'` feature map,
`H W` padded input, `P` pixels of a plane, `O` voxels of the band, `N` voxels.

Source: sparse projection of Uni-3D (Zhang et al. 2023), mlpc-ucsd/Uni-3D `modeling/reconstruction/
reprojection.py`. Differs: of several pixels in one voxel the nearest is kept, not a random one; points
outside the grid are dropped; under the rule "measured" pixels are where their centres are and the distance is
that of the voxel's centre, where the published one is the place inside the voxel plus the offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from skillbank_models.nvpanoptix3d.camera import View
from skillbank_models.nvpanoptix3d.outputs import ImageOutput
from skillbank_models.nvpanoptix3d.shared_features import SharedFeatures
from skillbank_models.nvpanoptix3d.views import coarser
from skillbank_models.ops.point_sampling import sample_maps
from skillbank_models.sparse import functional
from skillbank_models.sparse.tensor import Sites, SparseTensor

__all__ = ["Band", "band_of", "multi_scale", "project", "sample_plane"]

_STRIDES = (2, 4, 8)  # of the coarse features, in voxels of the grid


class Band(NamedTuple):
    """Voxels near the visible surface.

    Attributes:
        sites: the N voxels.
        pixels: (N,) int64, ``(image * h + row) * w + column`` of the pixel that shows the voxel.
        distance: (N,) float32, from the surface to the voxel along z in voxels, positive behind it.
    """

    sites: Sites
    pixels: Tensor
    distance: Tensor


def project(
    depth: Tensor,
    appearance: Tensor,
    class_scores: Tensor,
    *,
    views: Sequence[View],
    sizes: Sequence[tuple[int, int]],
    padded: tuple[int, int],
    band: int = 3,
    sign_channel: bool,
) -> tuple[SparseTensor, SharedFeatures, SparseTensor]:
    """Carry image features to the visible surface.

    The appearance is sampled once for a pixel and not repeated for its voxels.

    Args:
        depth: (B, h, w) metres along z; values outside near..far of the grid count as missing.
        appearance: (B, C, h', w') features of the padded input; keeps its dtype.
        class_scores: (B, K, h, w).
        views: camera and grid of each image, all of one grid and one rule.
        sizes: height and width of the content inside the padded input; the plane shows the content.
        padded: H and W.
        band: voxels before and behind the surface, along z.
        sign_channel: give sign and magnitude of the distance as two channels.

    Returns:
        distance (N, 2) or (N, 1) in voxels, appearance (N, C) and class scores (N, K), of the same voxels.
    """
    near = band_of(depth, views=views, band=band)
    distance = near.distance.unsqueeze(1)  # (N, 1)
    if sign_channel:
        distance = torch.cat((distance.sign(), distance.abs()), 1)  # (N, 2)
    height, width = depth.shape[1:]
    features = sample_plane(appearance, (height, width), sizes=sizes, padded=padded, centred=_centred(views))
    scores = _scores(class_scores, centred=_centred(views))  # (B * P, K)
    # many pixels have no voxel of their own
    used, rows = torch.unique(near.pixels, return_inverse=True)  # (U,), (N,)
    return (
        SparseTensor(distance, near.sites),
        SharedFeatures(features.index_select(0, used), rows, near.sites),  # (U, C)
        SparseTensor(scores.index_select(0, near.pixels), near.sites),  # (N, K)
    )


def multi_scale(
    depth: Tensor,
    output: ImageOutput,
    lifted: SparseTensor,
    *,
    views: Sequence[View],
    sizes: Sequence[tuple[int, int]],
    padded: tuple[int, int],
    sampling: Literal["aligned", "published"],
    band: int = 3,
) -> list[SparseTensor]:
    """Coarse features for the coarse levels of the decoder.

    Args:
        depth: (B, h, w) metres along z.
        output: of the 2D part; its `levels` are read.
        lifted: what was lifted by occupancy; pooled to each stride, its maximum is taken.
        views: as for `project`.
        sizes: as for `project`.
        padded: as for `project`.
        sampling: "aligned" reads features at the pixel, "published" where they would be if a map were half as
            large as its image, which it is not.
        band: voxels on either side of the surface at stride 1; fewer at coarse strides.

    Returns:
        (N'', C + K + 3) for strides 2, 4 and 8, in voxels of that stride.

    Source: the multi-scale input of Uni-3D (Zhang et al. 2023).
    """
    plane = (depth.shape[1], depth.shape[2])
    centred = sampling == "aligned" and views[0].rule == "measured"
    scales = []
    for stride, maps in zip(_STRIDES, reversed(output.levels), strict=True):
        seen = [coarser(view, stride) for view in views]
        near = band_of(depth, views=seen, band=round(band / stride), stride=stride)
        if sampling == "published":
            sizes = [(-(-plane[0] // stride), -(-plane[1] // stride))] * len(depth)
            padded = (maps.shape[2] * 2, maps.shape[3] * 2)
        features = sample_plane(maps, plane, sizes=sizes, padded=padded, centred=centred, stride=stride)
        appearance = SparseTensor(features.index_select(0, near.pixels), near.sites)
        lifted = functional.max_pool(lifted, kernel=3, stride=2)
        scales.append(functional.union([appearance, lifted]))
    return scales


def band_of(depth: Tensor, *, views: Sequence[View], band: int, stride: int = 1) -> Band:
    """Voxels within `band` of a pixel's depth along z.

    A voxel that several pixels reach belongs to the one whose point is nearest to its centre, of equal ones
    to the first in the image. An image without any valid pixel gets its middle pixel, at the nearest depth
    that is valid.

    Args:
        depth: (B, h, w) metres.
        views: of the grid that the voxels are wanted in.
        band: voxels on either side.
        stride: every so many-th pixel is used along both axes, from the first on; `pixels` counts these.
    """
    batch, grid = len(depth), views[0].grid
    places, valid = _places(depth.detach().double(), views, stride)  # (B, P, 3), (B, P)
    whole = (places + 0.5).floor_()  # (B, P, 3)
    offsets = torch.arange(-band, band + 1, device=depth.device, dtype=places.dtype)  # (O,)
    aside = (places - whole)[..., :2].square().sum(-1, keepdim=True)  # (B, P, 1)
    if views[0].rule == "measured":
        away = offsets + (whole - places)[..., 2:]  # (B, P, O)
    else:
        away = offsets + (places - whole)[..., 2:].add_(0.5)  # (B, P, O)
    voxels = whole.long()
    z = voxels[..., 2:] + offsets.long()  # (B, P, O)
    image = torch.arange(batch, device=depth.device).view(batch, 1)
    keys = (image * grid.side + voxels[..., 0]) * grid.side + voxels[..., 1]  # (B, P)
    fits = valid & ((voxels[..., :2] >= 0) & (voxels[..., :2] < grid.side)).all(-1)  # (B, P)
    taken = (fits.unsqueeze(2) & (z >= 0) & (z < grid.side)).view(-1).nonzero().view(-1)  # (M,)
    keys = (keys.unsqueeze(2) * grid.side + z).view(-1)[taken]  # (M,)
    order = _nearest((aside + away.square()).view(-1)[taken], keys)  # (N,)
    rows = taken[order]
    sites = Sites.of_keys(keys[order], grid.side, batch)
    return Band(sites, rows // len(offsets), away.reshape(-1)[rows].float())


def sample_plane(
    maps: Tensor,
    plane: tuple[int, int],
    *,
    sizes: Sequence[tuple[int, int]],
    padded: tuple[int, int],
    centred: bool,
    stride: int = 1,
) -> Tensor:
    """Read feature maps at the pixels of a plane, bilinearly, in float32.

    Args:
        maps: (B, C, h', w') of the padded input.
        plane: rows and columns of the plane.
        sizes: height and width of the content in the padded input, which the plane shows.
        padded: height and width of the input.
        centred: a pixel is at its centre, and the border is continued; else at its upper left corner, as
            published, and blends with zeros at the border.
        stride: every so many-th pixel is read along both axes, from the first on.

    Returns:
        (B * P, C), in the dtype of the maps, row by row of each image.
    """
    height, width = plane
    shares = maps.new_tensor(
        [(across / padded[1], down / padded[0]) for down, across in sizes], dtype=torch.float32
    )  # (B, 2)
    half = 0.5 if centred else 0.0
    x = (torch.arange(0, width, stride, device=maps.device) + half) / width
    y = (torch.arange(0, height, stride, device=maps.device) + half) / height
    points = (
        torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).view(1, -1, 2) * shares[:, None]
    )  # (B, P, 2)
    if centred:
        edge = points.new_tensor([0.5 / maps.shape[3], 0.5 / maps.shape[2]])
        points = torch.minimum(torch.maximum(points, edge), 1 - edge)
    found = sample_maps(maps.float(), points)  # (B, C, P)
    return found.transpose(1, 2).flatten(0, 1).to(maps.dtype)  # (B * P, C)


def _centred(views: Sequence[View]) -> bool:
    return views[0].rule == "measured"


def _scores(class_scores: Tensor, *, centred: bool) -> Tensor:
    """Class scores of each pixel of the plane, (B * P, K); half a pixel to the upper left as published."""
    if centred:
        return class_scores.flatten(2).transpose(1, 2).flatten(0, 1)  # (B * P, K)
    height, width = class_scores.shape[2:]
    size = [(height, width)] * len(class_scores)
    return sample_plane(class_scores, (height, width), sizes=size, padded=(height, width), centred=False)


def _places(depth: Tensor, views: Sequence[View], stride: int) -> tuple[Tensor, Tensor]:
    """Places of the pixels in voxels, (B, P, 3), and which of them have a valid depth, (B, P)."""
    batch, height, width = depth.shape
    grid, device = views[0].grid, depth.device
    numbers = torch.tensor(
        [_pinhole(view, height, width) for view in views], dtype=torch.float64, device=device
    )
    fx, fy, cx, cy, *origin = numbers.view(batch, 7, 1, 1).unbind(1)  # (B, 1, 1) each
    columns = torch.arange(0, width, stride, device=device)
    rows = torch.arange(0, height, stride, device=device).unsqueeze(1)
    depth = depth[:, ::stride, ::stride]
    valid = (depth >= grid.near) & (depth <= grid.far)  # (B, h, w)
    empty = ~valid.flatten(1).any(1)  # (B,)
    valid[:, valid.shape[1] // 2, valid.shape[2] // 2] |= empty
    depth = depth.nan_to_num(nan=grid.near).clamp(grid.near, grid.far)
    metres = ((columns - cx) / fx * depth, (rows - cy) / fy * depth, depth)
    places = [value / grid.voxel + start for value, start in zip(metres, origin, strict=True)]
    return torch.stack(places, -1).view(batch, -1, 3), valid.view(batch, -1)


def _pinhole(view: View, height: int, width: int) -> tuple[float, ...]:
    """Intrinsics of the plane and place of the camera."""
    camera = view.camera.scaled(width, height)
    if view.rule == "published":  # pixel x of the plane is x / w of the image, both from the left edge
        across, down = width / view.camera.width, height / view.camera.height
        return camera.fx, camera.fy, view.camera.cx * across, view.camera.cy * down, *view.origin
    return camera.fx, camera.fy, camera.cx, camera.cy, *view.origin


def _nearest(distance: Tensor, keys: Tensor) -> Tensor:
    """Rows of the smallest distance of each key, in the order of keys; of equal ones the first, (N,)."""
    order = distance.sort(stable=True).indices
    ordered, second = keys[order].sort(stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return order[second[first]]
