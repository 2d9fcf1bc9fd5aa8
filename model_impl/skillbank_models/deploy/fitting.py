"""Batches of images as a file of fixed image size takes them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["fit_images"]


def fit_images(
    images: Tensor,
    contents: list[tuple[int, int]],
    size: tuple[int, int] | None,
    *,
    within: tuple[int, int] | None = None,
    enlarge: bool = False,
) -> tuple[Tensor, list[tuple[int, int]]]:
    """Images as a file of fixed size takes them; those that are resized keep their proportions.

    Args:
        images: (B, C, H, W), padded at right and bottom.
        contents: (h, w) of each image inside.
        size: height and width to reach; None leaves the batch as it is.
        within: height and width that contents have to fit into; None means all of `size`.
        enlarge: whether small images grow until they fill `within`; else they keep their scale.

    Returns:
        (B, C, *size) and the size of the content of each image inside.
    """
    if size is None:
        return images, contents
    room = within or size
    fitted = [_fitted(content, room, enlarge=enlarge) for content in contents]
    if tuple(images.shape[-2:]) == size and fitted == contents:
        return images, contents
    out = images.new_zeros(len(images), images.shape[1], *size)  # (B, C, *size)
    for place, (content, wanted) in enumerate(zip(contents, fitted, strict=True)):
        image = images[place : place + 1, :, : content[0], : content[1]]  # (1, C, h, w)
        if wanted != content:
            image = F.interpolate(image, size=wanted, mode="bilinear", antialias=True)  # (1, C, ., .)
        out[place, :, : wanted[0], : wanted[1]] = image[0]
    return out, fitted


def _fitted(content: tuple[int, int], room: tuple[int, int], *, enlarge: bool) -> tuple[int, int]:
    height, width = content
    scale = min(room[0] / height, room[1] / width)
    if scale == 1 or (scale > 1 and not enlarge):
        return content
    return max(1, round(height * scale)), max(1, round(width * scale))
