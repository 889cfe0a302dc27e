"""A light encoder and decoder for laptops: one strided convolution per halving, about a hundredth of the arithmetic.

Not from the paper. Three things let it learn a game's frames in a minute on one core: the mean image, so that only
what moves is left to learn; a linear path from and to whole patches, beside the convolutions, so that latents differ
where frames differ from the first update on; and large maps are seen by the outermost convolutions only.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class MeanImage(nn.Module):
    """The mean (in_channels, S, S) of all images learned from so far; it thus moves ever more slowly."""

    mean: Tensor
    updates: Tensor
    _sum: Tensor

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, size, size))
        self.register_buffer("updates", torch.zeros(()))
        self.register_buffer("_sum", torch.zeros(channels, size, size), persistent=False)
        self._noted = 0

    @torch.no_grad()
    def note(self, images: Tensor) -> None:
        """Remember images (N, C, S, S) for the next update. The very first ones are the mean at once."""
        self._sum += images.sum(0)
        self._noted += len(images)
        self.mean.copy_(torch.where(self.updates == 0, self._sum / self._noted, self.mean))

    @torch.no_grad()
    def update(self) -> None:
        """Take what was noted into the mean."""
        if self._noted:
            self.updates += 1
            self.mean.lerp_(self._sum / self._noted, 1 / self.updates)
            self._sum.zero_()
            self._noted = 0


class StridedEncoder(nn.Module):
    """Images (N, in_channels, S, S) -> (N, out_channels, S / 2**len(widths), ...).

    Args:
        widths: channels after each halving.
    """

    def __init__(self, in_channels: int, out_channels: int, *, widths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels, width in pairwise([in_channels, *widths]):
            layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1), _norm(width), nn.SiLU()]
        self.layers = nn.Sequential(*layers, _Residual(widths[-1]), nn.Conv2d(widths[-1], out_channels, 1))
        patch = 2 ** len(widths)
        self.patches = nn.Conv2d(in_channels, out_channels, patch, stride=patch)
        nn.init.orthogonal_(self.patches.weight, gain=max(1.0, in_channels * patch**2 / out_channels) ** 0.5)

    def forward(self, images: Tensor) -> Tensor:
        return self.patches(images) + self.layers(images)


class StridedDecoder(nn.Module):
    """The mirror of `StridedEncoder`; `widths` as there, so that the last runs first."""

    def __init__(self, in_channels: int, out_channels: int, *, widths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(in_channels, widths[-1], 3, padding=1), _Residual(widths[-1])]
        for channels, width in pairwise(reversed(widths)):
            layers += [nn.ConvTranspose2d(channels, width, 4, stride=2, padding=1), _norm(width), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(widths[0], out_channels, 4, stride=2, padding=1))
        patch = 2 ** len(widths)
        self.patches = nn.Sequential(nn.Conv2d(in_channels, out_channels * patch**2, 1), nn.PixelShuffle(patch))
        nn.init.zeros_(self.patches[0].weight)  # otherwise its random patterns show long into training

    def forward(self, latents: Tensor) -> Tensor:
        return self.patches(latents) + self.layers(latents)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), _norm(width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(channels, 8), channels)
