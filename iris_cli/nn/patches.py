"""Images as grids of patches, and grids of tokens that become coarser or finer."""

from torch import Tensor
from torch.nn import functional as F


def to_patches(images: Tensor, size: int) -> Tensor:
    """(N, C, S, S) -> (N, (S/size)**2, C*size*size), row by row; a patch lists its pixels channel by channel."""
    return F.unfold(images, size, stride=size).mT


def to_images(patches: Tensor, size: int) -> Tensor:
    """The inverse of `to_patches`."""
    side = round(patches.shape[1] ** 0.5) * size
    return F.fold(patches.mT, (side, side), size, stride=size)


def pooled(tokens: Tensor) -> Tensor:
    """(..., g*g, E) -> (..., g*g/4, E), the means of two by two neighbours; g is even."""
    grid = _grid(tokens)
    half = grid.shape[-2] // 2
    means = grid.unflatten(-2, (half, 2)).unflatten(-4, (half, 2)).mean((-4, -2))  # (..., g/2, g/2, E)
    return means.flatten(-3, -2)


def doubled(tokens: Tensor) -> Tensor:
    """(..., g*g, E) -> (..., 4*g*g, E), each token two by two times."""
    return _grid(tokens).repeat_interleave(2, -3).repeat_interleave(2, -2).flatten(-3, -2)


def _grid(tokens: Tensor) -> Tensor:
    """(..., g*g, E) -> (..., g, g, E)"""
    return tokens.unflatten(-2, (round(tokens.shape[-2] ** 0.5), -1))
