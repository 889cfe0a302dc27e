"""The observation model of TWM: stacks of four grey frames to 32 categoricals of 32 classes, and back.

It knows no time: a latent is of its stack alone. Outside of here pixels are uint8 or in [0, 1]; they are not centred.

Source: fact sheet of TWM, sections 1 and 4.1. Members are named as in the published state dict.
"""

import math
from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn

from iris_cli.agents.twm.config import IMAGE_SIZE, STACK, TokenizerConfig
from iris_cli.errors import ShapeError
from iris_cli.learn.fingerprint import fingerprint
from iris_cli.learn.losses import Losses
from iris_cli.nn import data_parallel
from iris_cli.nn.categorical import cross_entropies, normalised_entropies, straight_through
from iris_cli.nn.mlp import MLP, init_silu

GRID = 2  # positions per side that the convolutions leave of 64 pixels
HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)  # of the density of a normal with unit variance
_BLOCK = 64  # stacks that pass at once
_ENCODING_FIELDS = ("categoricals", "categories", "base_channels", "hidden_widths")  # what latents depend on


class Tokenizer(nn.Module):
    """Categorical autoencoder.

    Args:
        config: sizes, and how it learns.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_width = config.categoricals * config.categories  # Z
        channels, flat = config.base_channels, 8 * config.base_channels * GRID**2
        self.encoder = nn.Sequential(
            _convolutions([STACK, channels, 2 * channels, 4 * channels, 8 * channels]),
            nn.Flatten(),
            MLP([flat, *config.hidden_widths, self.latent_width]),
        )
        self.decoder = nn.Sequential(
            MLP([self.latent_width, 16 * channels], activates_output=True),
            nn.Unflatten(1, (16 * channels, 1, 1)),
            _transposed_convolutions([16 * channels, 4 * channels, 2 * channels, channels, STACK]),
        )

    def forward(self, stacks: Tensor) -> Tensor:
        """Stacks (..., 4, 64, 64) uint8 -> latent logits (..., K, C), normalised over C, with gradient.

        Raises:
            ShapeError: for another shape or dtype.
        """
        _check_stacks(stacks)
        lead = stacks.shape[:-3]
        logits = self.encoder(stacks.reshape(-1, STACK, IMAGE_SIZE, IMAGE_SIZE).float() / 255)  # (N, Z)
        return logits.view(*lead, self.config.categoricals, self.config.categories).log_softmax(-1)

    @torch.no_grad()
    def encode(self, stacks: Tensor) -> Tensor:
        """Stacks (N, 4, 64, 64) uint8 -> latent logits (N, K, C) float32, log-softmax over the last axis. No gradient.

        Raises:
            ShapeError: for another shape or dtype.
        """
        return torch.cat([self(block) for block in stacks.split(_BLOCK)])  # split gives one empty block for N = 0

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, Z) -> (N, 4, 64, 64) float32, about [0, 1] and not clamped. No gradient.

        Raises:
            ShapeError: for another shape.
        """
        if latents.ndim != 2 or latents.shape[1] != self.latent_width:
            raise ShapeError(f"latents must have shape (N, {self.latent_width}). Got {tuple(latents.shape)}")
        return torch.cat([self.decoder(block) for block in latents.split(_BLOCK)])

    def loss(self, stacks: Tensor, logits: Tensor, latents: Tensor, *, predicted: Tensor | None = None) -> Losses:
        """Reconstruction, the entropy's hinge and, once a dynamics predicts, consistency with it.

        The hinge is of the mean entropy of the whole batch, where processes share one.

        Args:
            stacks: (..., 4, 64, 64) uint8.
            logits: (..., K, C) what `forward` says of them, with gradient.
            latents: (..., Z) drawn from those.
            predicted: (..., K, C) normalised logits that the dynamics had for these latents, or None.

        Returns:
            Parts loss_reconstruction, loss_latent_entropy and maybe loss_consistency (they sum up to the total),
            latent_entropy, a share of the uniform distribution's, and pixel_error in [0, 1].
        """
        reconstructions = self.decoder(straight_through(latents, logits).flatten(0, -2))  # (N, 4, 64, 64)
        errors = reconstructions - stacks.reshape(reconstructions.shape).float() / 255
        entropy, threshold = normalised_entropies(logits).mean(), self.config.entropy_threshold
        whole = entropy.detach() * data_parallel.current().portion
        data_parallel.add_up([whole])
        parts = {
            "loss_reconstruction": (0.5 * errors.square() + HALF_LOG_TWO_PI).sum((-3, -2, -1)).mean(),
            "loss_latent_entropy": self.config.entropy_weight
            * torch.where(whole < threshold, threshold - entropy, 0.0),
        }
        if predicted is not None:
            # The released program's direction, the reverse of the paper's: the encoder follows the prediction.
            parts["loss_consistency"] = self.config.consistency_weight * cross_entropies(predicted, logits).mean()
        total = torch.stack(list(parts.values())).sum()
        parts |= {"latent_entropy": entropy, "pixel_error": errors.abs().mean()}
        return Losses(total, {name: part.detach() for name, part in parts.items()})

    def fingerprint(self) -> str:
        """16 hex digits that change whenever `encode` may."""
        settings = {name: getattr(self.config, name) for name in _ENCODING_FIELDS}
        return fingerprint(settings, self.encoder.state_dict().items())


def _convolutions(channels: list[int]) -> nn.Sequential:
    """Halve the image with each layer; SiLU after the last one too."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (before, after) in enumerate(pairwise(channels), start=1):
        layers[f"conv{i}"] = convolution = nn.Conv2d(before, after, 4, stride=2)
        init_silu(convolution, activates=True)
        layers[f"silu{i}"] = nn.SiLU()
    return nn.Sequential(layers)


def _transposed_convolutions(channels: list[int]) -> nn.Sequential:
    """1x1 -> 5x5 -> 13x13 -> 30x30 -> 64x64. They keep PyTorch's initial weights, as in the released program."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (before, after) in enumerate(pairwise(channels), start=1):
        layers[f"conv_transpose{i}"] = nn.ConvTranspose2d(before, after, 5 if i < 3 else 6, stride=2)
        if i < len(channels) - 1:
            layers[f"silu{i}"] = nn.SiLU()
    return nn.Sequential(layers)


def _check_stacks(stacks: Tensor) -> None:
    expected = (STACK, IMAGE_SIZE, IMAGE_SIZE)
    if stacks.shape[-3:] != expected or stacks.dtype != torch.uint8:
        raise ShapeError(
            f"stacks must have shape (N, {STACK}, {IMAGE_SIZE}, {IMAGE_SIZE}) and dtype uint8, "
            f"got {tuple(stacks.shape)} and {str(stacks.dtype).removeprefix('torch.')}"
        )
