"""A light encoder and decoder for laptops: one strided convolution per halving, about a hundredth of the arithmetic.

Not from the paper. Large maps cost most, so nothing but the outermost convolutions sees them.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class StridedEncoder(nn.Sequential):
    """Images (N, in_channels, S, S) -> (N, out_channels, S / 2**len(widths), ...).

    Args:
        widths: channels after each halving.
    """

    def __init__(self, in_channels: int, out_channels: int, *, widths: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        for channels, width in pairwise([in_channels, *widths]):
            layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1), _norm(width), nn.SiLU()]
        super().__init__(*layers, _Residual(widths[-1]), nn.Conv2d(widths[-1], out_channels, 1))


class StridedDecoder(nn.Sequential):
    """The mirror of `StridedEncoder`; `widths` as there, so that the last runs first."""

    def __init__(self, in_channels: int, out_channels: int, *, widths: Sequence[int]) -> None:
        layers: list[nn.Module] = [nn.Conv2d(in_channels, widths[-1], 3, padding=1), _Residual(widths[-1])]
        for channels, width in pairwise(reversed(widths)):
            layers += [nn.ConvTranspose2d(channels, width, 4, stride=2, padding=1), _norm(width), nn.SiLU()]
        super().__init__(*layers, nn.ConvTranspose2d(widths[0], out_channels, 4, stride=2, padding=1))


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
