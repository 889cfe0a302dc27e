"""The tokenizer of Δ-IRIS: four tokens for a transition (frame, action, next frame), given the frame and the action.

What is easy to miss: the past frame reaches the decoder only through an 8x8 map; a token's vector lists the pixels of
its patch with the channel fastest; padded transitions count in the commitment term and in the codebook's averages, but
not in the reconstruction.

Source: fact sheet of Δ-IRIS, section 2.
"""

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

from iris_cli.agents.delta_iris.config import GRID, IMAGE_SIZE, TOKENS_PER_TRANSITION, TokenizerConfig, map_size
from iris_cli.errors import ShapeError
from iris_cli.learn.losses import Losses
from iris_cli.nn.code_use import code_use
from iris_cli.nn.cosine_quantizer import CosineQuantizer
from iris_cli.nn.residual import FrameDecoder, FrameEncoder
from iris_cli.nn.transformer import init_gpt
from iris_cli.replay.segments import Segments

_CHANNELS = 3  # RGB
_ENCODING_FIELDS = (  # what tokens depend on, besides the weights
    "latent_channels", "base_channels", "channel_multipliers", "halvings", "patch", "codes", "code_width",
)  # fmt: skip
_ENCODING_WEIGHTS = ("encoder.", "encoder_act_emb.", "quantizer.codebook", "quantizer.pre_quant_proj.")


class Tokenizer(nn.Module):
    """Autoencoder of transitions; members are named as in the published state dict, so that its keys are ours.

    Args:
        config: sizes.
        num_actions: A.
        image_size: pixels, height and width of a frame.
    """

    def __init__(self, config: TokenizerConfig, *, num_actions: int, image_size: int = IMAGE_SIZE) -> None:
        super().__init__()
        self.config, self.image_size = config, image_size
        self.map_size = map_size(config, image_size)  # pixels of the encoder's output
        self._patch = self.map_size // GRID
        levels: dict[str, Any] = {
            "multipliers": config.channel_multipliers,
            "halvings": config.halvings,
            "patch": config.patch,
        }
        self.encoder = FrameEncoder(
            2 * _CHANNELS + 1, config.latent_channels, base=config.base_channels, **levels
        )  # fmt: skip
        self.frame_cnn = FrameEncoder(_CHANNELS, config.past_channels, base=config.past_base_channels, **levels)
        self.decoder = FrameDecoder(
            config.past_channels + config.action_channels + config.latent_channels, _CHANNELS,
            base=config.base_channels, **levels,
        )  # fmt: skip
        self.encoder_act_emb = nn.Embedding(num_actions, image_size**2)
        self.decoder_act_emb = nn.Embedding(num_actions, config.action_channels * self.map_size**2)
        self.quantizer = CosineQuantizer(
            config.codes, config.code_width, width=config.latent_channels * self._patch**2
        )  # fmt: skip
        self.apply(init_gpt)

    @torch.no_grad()
    def encode(self, past_frames: Tensor, actions: Tensor, frames: Tensor) -> Tensor:
        """The tokens of transitions.

        A transition's tokens do not depend on its company: all pass in blocks of one fixed size, the last one padded,
        so that every convolution does the same arithmetic however many there are.

        Args:
            past_frames: (N, 3, 64, 64) uint8.
            actions: (N,) int64 chosen on them.
            frames: (N, 3, 64, 64) uint8 that they led to.

        Returns:
            (N, 4) int64 in [0, V), row-major over the 2x2 grid.

        Raises:
            ShapeError: for other shapes or dtypes.
        """
        self._check(past_frames, actions)
        self._check(frames, actions)
        size = self._block_size(frames.device)
        parts = zip(past_frames.split(size), actions.split(size), frames.split(size), strict=True)
        tokens = []
        for past, action, frame in parts:  # one empty block for N = 0
            vectors = self.vectors(_images(_padded(past, size)), _padded(action, size), _images(_padded(frame, size)))
            tokens.append(self.quantizer.tokens(vectors)[: len(frame)])
        return torch.cat(tokens)

    @torch.no_grad()
    def decode(self, past_frames: Tensor, actions: Tensor, tokens: Tensor) -> Tensor:
        """The frames that transitions lead to, as tokens tell. No gradient.

        Args:
            past_frames: (N, 3, 64, 64) uint8.
            actions: (N,) int64 chosen on them.
            tokens: (N, 4) int64.

        Returns:
            (N, 3, 64, 64) float32 in [0, 1], clamped but not rounded to 8 bits.

        Raises:
            ShapeError: for other shapes or dtypes.
        """
        self._check(past_frames, actions)
        if tokens.shape != (len(past_frames), TOKENS_PER_TRANSITION):
            raise ShapeError(
                f"tokens must have shape (N, K)=({len(past_frames)}, {TOKENS_PER_TRANSITION}). "
                f"Got {tuple(tokens.shape)}"
            )
        size = self._block_size(tokens.device)
        parts = zip(past_frames.split(size), actions.split(size), tokens.split(size), strict=True)
        frames = [self.images_of(_images(past), action, self.quantizer.lookup(token)) for past, action, token in parts]
        return torch.cat(frames).clamp_(0, 1)

    def vectors(self, past: Tensor, actions: Tensor, images: Tensor) -> Tensor:
        """What is quantized: images (N, 3, S, S) in [0, 1] and actions (N,) -> (N, 4, D), D = (k, l, channel)."""
        planes = self.encoder_act_emb(actions).unflatten(1, (1, self.image_size, self.image_size))
        latents = self.encoder(torch.cat([past, planes, images], 1))  # (N, C, s, s)
        grid = latents.unflatten(3, (GRID, self._patch)).unflatten(2, (GRID, self._patch))  # (N, C, h, k, w, l)
        return grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # (N, h*w, k*l*C)

    def images_of(self, past: Tensor, actions: Tensor, vectors: Tensor) -> Tensor:
        """The inverse of `vectors`, with what the quantizer made of them: (N, 3, S, S), about [0, 1]."""
        planes = self.decoder_act_emb(actions).unflatten(1, (-1, self.map_size, self.map_size))
        grid = vectors.unflatten(2, (self._patch, self._patch, -1)).unflatten(1, (GRID, GRID))  # (N, h, w, k, l, C)
        latents = grid.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)  # (N, C, s, s)
        return self.decoder(torch.cat([self.frame_cnn(past), planes, latents], 1))

    def loss(self, segments: Segments) -> Losses:
        """How far segments of T frames are from what the decoder makes of their T - 1 transitions.

        L1, squared error, each frame's largest squared error (means over transitions between two real frames), and
        commitment (a mean over all). The frames are not clamped.

        Args:
            segments: with frames; padding may be on either side.

        Returns:
            Parts l1_loss, l2_loss, max_pixel_loss, commitment_loss (weighted, they sum up to the total), perplexity
            and codes_used of this batch, and codebook_entropy in bits of the moving average of use.

        Raises:
            ShapeError: if the segments carry no frames, or fewer than two.
        """
        if segments.frames is None or segments.frames.shape[1] < 2:
            raise ShapeError("segments must carry two frames at least, for a transition between them")
        images = _images(segments.frames)  # (B, T, 3, S, S)
        past, target = images[:, :-1].flatten(0, 1), images[:, 1:].flatten(0, 1)  # (N, 3, S, S)
        actions = segments.actions[:, :-1].flatten()
        quantized = self.quantizer(self.vectors(past, actions, target))
        differences = target - self.images_of(past, actions, quantized.vectors)
        real = (segments.mask[:, :-1] & segments.mask[:, 1:]).flatten()  # (N,)
        squares = differences.square()

        def mean(per_transition: Tensor) -> Tensor:
            return (per_transition * real).sum() / real.sum().clamp_min(1)

        config = self.config
        parts = {
            "l1_loss": config.l1_weight * mean(differences.abs().flatten(1).mean(1)),
            "l2_loss": config.l2_weight * mean(squares.flatten(1).mean(1)),
            "max_pixel_loss": config.max_pixel_weight * mean(squares.flatten(1).amax(1)),
            "commitment_loss": config.commitment_weight * quantized.distance,
        }
        total = torch.stack(list(parts.values())).sum()
        parts = {name: part.detach() for name, part in parts.items()}
        usage = code_use(quantized.tokens, config.codes) | {"codebook_entropy": self.quantizer.entropy()}
        return Losses(total, parts | usage)

    def update_codebook(self) -> None:
        """Call once per optimizer update. Draws from torch's global generator where codes are revived."""
        self.quantizer.update_codebook(revival_updates=self.config.revival_updates)

    def fingerprint(self) -> str:
        """16 hex digits that change whenever `encode` may."""
        fields = {name: getattr(self.config, name) for name in _ENCODING_FIELDS}
        digest = hashlib.sha256(json.dumps(fields).encode())
        for name, weights in self.state_dict().items():
            if name.startswith(_ENCODING_WEIGHTS):
                digest.update(name.encode())
                digest.update(weights.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _block_size(self, device: torch.device) -> int:
        """Transitions that pass at once: few on a CPU, whose caches then hold the maps."""
        return 4 * self.config.patch**2 if device.type == "cpu" else 64

    def _check(self, frames: Tensor, actions: Tensor) -> None:
        size = self.image_size
        if frames.shape[1:] != (_CHANNELS, size, size) or frames.dtype != torch.uint8:
            raise ShapeError(
                f"frames must have shape (N, {_CHANNELS}, {size}, {size}) and dtype uint8, "
                f"got {tuple(frames.shape)} and {str(frames.dtype).removeprefix('torch.')}"
            )
        if actions.shape != frames.shape[:1] or actions.dtype != torch.int64:
            raise ShapeError(
                f"actions must have shape (N,)=({len(frames)},) and dtype int64. "
                f"Got {tuple(actions.shape)} {actions.dtype}"
            )


def _images(frames: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1].

    Contiguous: on channels-last maps that hardly vary, GroupNorm on a CPU loses so much precision that tokens change.
    """
    return frames.contiguous().float().div_(255)


def _padded(rows: Tensor, size: int) -> Tensor:
    """(n, ...) -> (size, ...), zeros behind."""
    return torch.cat([rows, rows.new_zeros(size - len(rows), *rows.shape[1:])])
