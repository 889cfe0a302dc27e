"""Residual convolutional frame encoder and decoder, without attention.

Members are named as in the published state dict of Δ-IRIS, so that its keys are ours. What is easy to miss: every
GroupNorm has 32 groups, halving is a 2x2 convolution without padding, and the decoder doubles the size before the
residual block of a level, which narrows to the next shallower width.

Source: fact sheet of Δ-IRIS, section 1.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 32  # of every GroupNorm; widths are multiples of it


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1 convolution on x where the width changes."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.f = nn.Sequential(
            nn.GroupNorm(GROUPS, channels),
            nn.SiLU(),
            nn.Conv2d(channels, width, 3, padding=1),
            nn.GroupNorm(GROUPS, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.skip_projection = nn.Conv2d(channels, width, 1) if channels != width else None

    def forward(self, x: Tensor) -> Tensor:
        return (x if self.skip_projection is None else self.skip_projection(x)) + self.f(x)


class FrameEncoder(nn.Module):
    """Images (N, in_channels, S, S) -> (N, out_channels, S / patch / 2**sum(halvings), ...), not squashed.

    Args:
        base: channels before the first level, a multiple of 32.
        multipliers: channels of each level, in units of `base`.
        halvings: 1 for each level that ends by halving the image, else 0.
        patch: pixels per side that become channels of one before the first convolution; 1 is published.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        base: int,
        multipliers: Sequence[int],
        halvings: Sequence[int],
        patch: int = 1,
    ) -> None:
        super().__init__()
        self.patch = patch
        layers: list[nn.Module] = [nn.Conv2d(in_channels * patch**2, base, 3, padding=1)]
        channels = base
        for multiplier, halves in zip(multipliers, halvings, strict=True):
            width = multiplier * base
            layers.append(ResidualBlock(channels, width))
            if halves:
                layers.append(_Down(width))
            channels = width
        layers += [nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)]
        self.encoder = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder(_folded(images, self.patch))


class FrameDecoder(nn.Module):
    """The way back: (N, in_channels, s, s) -> (N, out_channels, s * 2**sum(halvings) * patch, ...), not squashed.

    Args: as in `FrameEncoder`; levels are numbered as there, so that the last one runs first.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        base: int,
        multipliers: Sequence[int],
        halvings: Sequence[int],
        patch: int = 1,
    ) -> None:
        super().__init__()
        self.patch = patch
        widths = [multiplier * base for multiplier in multipliers]
        layers: list[nn.Module] = [nn.Conv2d(in_channels, widths[-1], 3, padding=1)]
        for width, shallower, halves in reversed(list(zip(widths, [base, *widths[:-1]], halvings, strict=True))):
            if halves:
                layers.append(_Up(width))
            layers.append(ResidualBlock(width, shallower))
        layers += [nn.GroupNorm(GROUPS, base), nn.SiLU(), nn.Conv2d(base, out_channels * patch**2, 3, padding=1)]
        self.decoder = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:
        return _unfolded(self.decoder(latents), self.patch)


class _Down(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class _Up(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _folded(images: Tensor, patch: int) -> Tensor:
    """(N, C, S, S) -> (N, C * patch**2, S / patch, ...), as F.pixel_unshuffle, but for N = 0 too."""
    if patch == 1:
        return images
    split = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # (N, C, h, k, w, l)
    return split.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


def _unfolded(maps: Tensor, patch: int) -> Tensor:
    """The inverse of `_folded`."""
    if patch == 1:
        return maps
    split = maps.unflatten(1, (-1, patch, patch))  # (N, C, k, l, h, w)
    return split.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)
