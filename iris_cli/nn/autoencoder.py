"""The residual convolutional encoder and decoder of IRIS (after VQGAN: Esser et al. 2021).

Sizes as published: 64 pixels, five levels, four of them halving the image. Members are named as in the published
state dict, so that its keys are ours. What is easy to miss: GroupNorm has eps 1e-6, downsampling pads right and bottom
only, and attention follows every residual block of its levels and always sits in the middle.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from iris_cli.nn.dropout import SharedDropout


class Encoder(nn.Module):
    """Images (N, in_channels, S, S) -> (N, out_channels, S / 2**(levels - 1), ...).

    Args:
        widths: channels of each level; every level but the last halves the image.
        res_blocks: residual blocks per level.
        attention_resolutions: pixels; levels of this size have attention after each residual block.
        image_size: S, from which the levels' sizes are counted.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        widths: Sequence[int],
        res_blocks: int,
        attention_resolutions: Sequence[int],
        image_size: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        channels = widths[0]
        for level, width in enumerate(widths):
            attention = image_size >> level in attention_resolutions
            stage = _Level(channels, width, res_blocks, attention, dropout)
            if level < len(widths) - 1:
                stage.downsample = _Downsample(width)
            self.down.append(stage)
            channels = width
        self.mid = _Middle(channels, dropout)
        self.norm_out = _norm(channels)
        self.conv_out = nn.Conv2d(channels, out_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv_in(images)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """The mirror of `Encoder`, with one residual block more per level and no squashing at the end.

    Args: as in `Encoder`; levels are numbered as there, so that `up[-1]` runs first.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        widths: Sequence[int],
        res_blocks: int,
        attention_resolutions: Sequence[int],
        image_size: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, widths[-1], 3, padding=1)
        self.mid = _Middle(widths[-1], dropout)
        self.up = nn.ModuleList()
        for level, width in enumerate(widths):
            channels = widths[min(level + 1, len(widths) - 1)]
            attention = image_size >> level in attention_resolutions
            stage = _Level(channels, width, res_blocks + 1, attention, dropout)
            if level > 0:
                stage.upsample = _Upsample(width)
            self.up.append(stage)
        self.norm_out = _norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.mid(self.conv_in(latents))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class _Level(nn.Module):
    """Residual blocks, each with attention or not, then a change of size or none."""

    def __init__(self, channels: int, width: int, blocks: int, attention: bool, dropout: float) -> None:
        super().__init__()
        self.block = nn.ModuleList(_ResBlock(channels if i == 0 else width, width, dropout) for i in range(blocks))
        self.attn = nn.ModuleList(_Attention(width) for _ in range(blocks if attention else 0))
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        resize = self.downsample or self.upsample
        return x if resize is None else resize(x)


class _Middle(nn.Module):
    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.block_1 = _ResBlock(channels, channels, dropout)
        self.attn_1 = _Attention(channels)
        self.block_2 = _ResBlock(channels, channels, dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class _ResBlock(nn.Module):
    def __init__(self, channels: int, width: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = _norm(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.norm2 = _norm(width)
        self.dropout = SharedDropout(dropout)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(channels, width, 1) if channels != width else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(self.dropout(F.silu(self.norm2(y))))
        return y + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class _Attention(nn.Module):
    """One head over all positions; scores are scaled by channels ** -0.5."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        query, key, value = (
            project(normed).flatten(2).mT.unsqueeze(1) for project in (self.q, self.k, self.v)
        )  # (N, 1, h*w, C) each
        attended = F.scaled_dot_product_attention(query, key, value)
        return x + self.proj_out(attended.squeeze(1).mT.unflatten(2, x.shape[2:]))


class _Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # right and bottom only


class _Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)
