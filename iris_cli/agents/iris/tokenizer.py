"""The tokenizer of IRIS: frames to 16 tokens and back. Between modules pixels are in [0, 1]; inside here in [-1, 1]."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iris_cli.agents.iris.config import GRID, IMAGE_SIZE, TOKENS_PER_FRAME, TokenizerConfig
from iris_cli.errors import ShapeError
from iris_cli.learn.fingerprint import fingerprint
from iris_cli.learn.losses import Losses
from iris_cli.nn.autoencoder import Decoder, Encoder
from iris_cli.nn.code_use import code_use
from iris_cli.nn.lpips import LPIPS
from iris_cli.nn.strided import MeanImage, StridedDecoder, StridedEncoder
from iris_cli.nn.vector_quantizer import VectorQuantizer

_CHANNELS = 3  # RGB
_ENCODING_FIELDS = (  # what tokens depend on, besides the weights
    "network", "codes", "code_width", "latent_channels", "base_channels", "channel_multipliers", "res_blocks",
    "attention_resolutions", "mean_image",
)  # fmt: skip


class Tokenizer(nn.Module):
    """VQ autoencoder; members are named as in the published state dict, so that its keys are ours."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.base_channels * multiplier for multiplier in config.channel_multipliers]
        self.mean_image: MeanImage | None = None
        if config.network == "strided":
            self.mean_image = MeanImage(_CHANNELS, IMAGE_SIZE) if config.mean_image else None
            self.encoder: Encoder | StridedEncoder = StridedEncoder(_CHANNELS, config.code_width, widths=widths[2:])
            self.decoder: Decoder | StridedDecoder = StridedDecoder(config.code_width, _CHANNELS, widths=widths[2:])
            self.pre_quant_conv: nn.Module = nn.Identity()
            self.post_quant_conv: nn.Module = nn.Identity()
            width = self.encoder.width  # of a code
        else:
            self.encoder = Encoder(
                _CHANNELS, config.latent_channels, widths=widths, res_blocks=config.res_blocks,
                attention_resolutions=config.attention_resolutions, image_size=IMAGE_SIZE, dropout=config.dropout,
            )  # fmt: skip
            self.decoder = Decoder(
                config.latent_channels, _CHANNELS, widths=widths, res_blocks=config.res_blocks,
                attention_resolutions=config.attention_resolutions, image_size=IMAGE_SIZE, dropout=config.dropout,
            )  # fmt: skip
            self.pre_quant_conv = nn.Conv2d(config.latent_channels, config.code_width, 1)
            self.post_quant_conv = nn.Conv2d(config.code_width, config.latent_channels, 1)
            width = config.code_width
        self.embedding = VectorQuantizer(
            config.codes,
            width,
            commitment_weight=config.commitment_weight,
            ema_decay=config.ema_decay if config.codebook == "ema" else None,
            revive_after=config.revive_after,
        )

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """The tokens of frames.

        A frame's tokens do not depend on its company: frames pass in blocks of one fixed size, the last one padded,
        so that every convolution does the same arithmetic however many frames are given.

        Args:
            frames: (N, 3, 64, 64) uint8.

        Returns:
            (N, 16) int64 in [0, V), row-major over the 4x4 grid.

        Raises:
            ShapeError: for another shape or dtype.
        """
        _check_frames(frames)
        size = _block_size(self.embedding.weight, self.config.network)
        tokens = [self._tokens(_padded(block, size))[: len(block)] for block in frames.split(size)]
        return torch.cat(tokens)  # split gives one empty block for N = 0

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """(N, 16) int64 tokens -> (N, 3, 64, 64) float32 in [0, 1], clamped. No gradient.

        Raises:
            ShapeError: for another shape.
        """
        if tokens.ndim != 2 or tokens.shape[1] != TOKENS_PER_FRAME:
            raise ShapeError(f"tokens must have shape (N, {TOKENS_PER_FRAME}), got {tuple(tokens.shape)}")
        images = [
            self._images_of(self.embedding.lookup(block.unflatten(1, (GRID, GRID))))
            for block in tokens.split(_block_size(self.embedding.weight, self.config.network))
        ]
        return torch.cat(images).float().add_(1).div_(2).clamp_(0, 1)

    @torch.no_grad()
    def reconstruct(self, frames: Tensor) -> Tensor:
        """(N, 3, 64, 64) uint8 -> (N, 3, 64, 64) float32 in [0, 1], as `decode(encode(frames))` but for rounding.

        For acting, which looks at a frame or a few at once: nothing is padded.

        Raises:
            ShapeError: for another shape or dtype.
        """
        return self.decode(self.glance(frames))

    @torch.no_grad()
    def glance(self, frames: Tensor) -> Tensor:
        """The tokens (N, 16) that `reconstruct` decodes: as `encode` but for rounding, and quicker for a few frames.

        Raises:
            ShapeError: for another shape or dtype.
        """
        _check_frames(frames)
        size = _block_size(self.embedding.weight, self.config.network)
        return torch.cat([self._tokens(block) for block in frames.split(size)])

    def loss(self, frames: Tensor, *, perceptual: LPIPS | None) -> Losses:
        """How far frames (N, 3, 64, 64) uint8 are from their reconstructions.

        With `perceptual` as published: L1 + codebook and commitment terms + LPIPS, all weights 1, in [-1, 1] and not
        clamped. Without: L1, the squared error and each frame's largest squared error, which keeps the balls and
        bullets that a mean over 4096 pixels overlooks.

        Raises:
            ShapeError: for another shape or dtype.
        """
        _check_frames(frames)
        images = _images(frames)
        if self.training and self.mean_image is not None:
            self.mean_image.note(images)
        quantized = self.embedding(self._latents(images))
        reconstructions = self._images_of(quantized.latents)
        parts = {
            "commitment_loss": quantized.loss,
            "reconstruction_loss": F.l1_loss(reconstructions, images),
        }
        if perceptual is None:
            squares = (reconstructions - images).square()
            parts["l2_loss"] = self.config.l2_weight * squares.mean()
            parts["max_pixel_loss"] = self.config.max_pixel_weight * squares.flatten(1).amax(1).mean()
        else:
            parts["perceptual_loss"] = perceptual(images, reconstructions).mean()
        total = torch.stack(list(parts.values())).sum()
        parts = {name: part.detach() for name, part in parts.items()}
        return Losses(total, parts | code_use(quantized.tokens, self.config.codes))

    def update_codebook(self) -> None:
        """Call once per optimizer update, after its last backward pass. Draws from torch's global generator."""
        self.embedding.update_codebook()
        if self.mean_image is not None:
            self.mean_image.update()

    def fingerprint(self) -> str:
        """16 hex digits that change whenever `encode` may."""
        decide = ("embedding.weight", "mean_image.mean", "encoder.", "pre_quant_conv.")
        weights = [(name, tensor) for name, tensor in self.state_dict().items() if name.startswith(decide)]
        return fingerprint({name: getattr(self.config, name) for name in _ENCODING_FIELDS}, weights)

    def _tokens(self, frames: Tensor) -> Tensor:
        return self.embedding.tokens(self._latents(_images(frames))).flatten(1)

    def _latents(self, images: Tensor) -> Tensor:
        """(N, 3, 64, 64) in [-1, 1] -> (N, E, 4, 4)."""
        if self.mean_image is not None:
            images = images - self.mean_image.mean
        return self.pre_quant_conv(self.encoder(images))

    def _images_of(self, codes: Tensor) -> Tensor:
        """(N, E, 4, 4) -> (N, 3, 64, 64), about [-1, 1]."""
        images = self.decoder(self.post_quant_conv(codes))
        return images if self.mean_image is None else images + self.mean_image.mean


def _check_frames(frames: Tensor) -> None:
    expected = (_CHANNELS, IMAGE_SIZE, IMAGE_SIZE)
    if frames.shape[1:] != expected or frames.dtype != torch.uint8:
        raise ShapeError(
            f"frames must have shape (N, 3, {IMAGE_SIZE}, {IMAGE_SIZE}) and dtype uint8, "
            f"got {tuple(frames.shape)} and {str(frames.dtype).removeprefix('torch.')}"
        )


def _images(frames: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1], by way of [0, 1] as published.

    Contiguous: on channels-last maps that hardly vary, GroupNorm on a CPU loses so much precision that tokens change.
    """
    return frames.to(torch.float32, memory_format=torch.contiguous_format).div_(255).mul_(2).sub_(1)


def _padded(frames: Tensor, size: int) -> Tensor:
    return F.pad(frames, (0, 0, 0, 0, 0, 0, 0, size - len(frames)))


def _block_size(weight: Tensor, network: str) -> int:
    """Frames that pass at once: few on a CPU, whose caches then hold the maps."""
    if weight.device.type != "cpu":
        return 64
    return 32 if network == "strided" else 4 if weight.dtype == torch.float32 else 16
