"""A light encoder and decoder for laptops. Not from the paper.

Three things let it learn a game's frames in a minute on one core. The mean image leaves only what moves to be learned.
Latents hold the pixels of their patch beside learned features, so that a code, the average of its latents, carries the
average patch it stands for, and small things are told apart from the first update on. And no convolution sees a map
larger than a quarter of the image: pixels become channels there, and back; they learn what the average patches miss.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iris_cli.nn import data_parallel

_STEM = 4  # pixels per side that become channels before the first convolution, and back after the last
_PIXEL_SCALE = 0.5  # of the pixels within a latent
_FEATURE_GAIN = 8.0  # length of each row of the first projection: blurred patches decide over codes, pixels less


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
        """Remember images (N, C, S, S) for the next update. The very first ones are the mean at once.

        So are images of other processes that share the batch.
        """
        total = images.sum(0)
        data_parallel.add_up([total])
        self._sum += total
        self._noted += data_parallel.current().place(len(images))[1]
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
    """Images (N, in_channels, S, S), less their mean -> latents (N, `width`, S / P, S / P), P = 2 * 2**len(widths).

    Args:
        features: learned channels of a latent; the pixels of its patch come after them.
        widths: channels at a quarter of the image's size, and after each halving from there on.
    """

    def __init__(self, in_channels: int, features: int, *, widths: Sequence[int]) -> None:
        super().__init__()
        self.patch = _STEM // 2 * 2 ** len(widths)
        self.width = features + in_channels * self.patch**2
        first = nn.Conv2d(in_channels * _STEM**2, widths[0], 3, padding=1)
        layers: list[nn.Module] = [nn.PixelUnshuffle(_STEM), first, _norm(widths[0]), nn.SiLU()]
        for channels, width in pairwise(widths):
            layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1), _norm(width), nn.SiLU()]
        last = nn.Conv2d(widths[-1], features, 1)
        nn.init.zeros_(last.weight)
        self.layers = nn.Sequential(*layers, _Residual(widths[-1]), last)
        self.patches = nn.Conv2d(in_channels, features, self.patch, stride=self.patch)
        _init_blurred_projection(self.patches.weight)

    def forward(self, images: Tensor) -> Tensor:
        features = self.patches(images) + self.layers(images)
        return torch.cat([features, _PIXEL_SCALE * F.pixel_unshuffle(images, self.patch)], dim=1)


class StridedDecoder(nn.Module):
    """The mirror of `StridedEncoder`: the average patches, and what convolutions add to them."""

    def __init__(self, features: int, out_channels: int, *, widths: Sequence[int]) -> None:
        super().__init__()
        self.patch = _STEM // 2 * 2 ** len(widths)
        self.features = features
        layers: list[nn.Module] = [
            nn.Conv2d(features + out_channels * self.patch**2, widths[-1], 1), _Residual(widths[-1])
        ]  # fmt: skip
        for channels, width in pairwise(reversed(widths)):
            layers += [nn.ConvTranspose2d(channels, width, 4, stride=2, padding=1), _norm(width), nn.SiLU()]
        last = nn.Conv2d(widths[0], out_channels * _STEM**2, 3, padding=1)
        nn.init.zeros_(last.weight)
        self.layers = nn.Sequential(*layers, last, nn.PixelShuffle(_STEM))

    def forward(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(latents[:, self.features :] / _PIXEL_SCALE, self.patch) + self.layers(latents)


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


@torch.no_grad()
def _init_blurred_projection(weight: Tensor) -> None:
    """Rows that see a blurred patch, so that an object one pixel further is nearer than no object."""
    rows = F.avg_pool2d(nn.init.orthogonal_(weight), 5, stride=1, padding=2)
    weight.copy_(_FEATURE_GAIN * F.normalize(rows.flatten(1)).view_as(weight))
