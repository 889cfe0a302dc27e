"""What both tokenizers of Δ-IRIS share: what may be asked of them, what they learn by, and the codebook's update.

Both give four tokens for a transition (frame, action, next frame). The published one (tokenizer.py) sees nothing else;
the one of the workshop paper (transformer_tokenizer.py) also what came before in the segment, so that there are two
ways to ask: transitions each alone, or in a row.

Source: fact sheet of Δ-IRIS, sections 2 and 12.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from iris_cli.agents.delta_iris.config import TOKENS_PER_TRANSITION, TokenizerConfig
from iris_cli.errors import ShapeError
from iris_cli.learn.fingerprint import fingerprint
from iris_cli.learn.losses import Losses, share_of_mean
from iris_cli.nn.code_use import code_use
from iris_cli.nn.cosine_quantizer import CosineQuantizer
from iris_cli.replay.segments import Segments

CHANNELS = 3  # RGB
Paint = Callable[[Tensor, Tensor, Tensor], Tensor]  # frames, actions, tokens as in `decode`, and what they lead to


class Painter(Protocol):
    """What decodes one transition after the other, each once, in turn."""

    def __call__(self, frames: Tensor, actions: Tensor, tokens: Tensor, /) -> Tensor:
        """As `TransitionTokenizer.decode`, but knowing the transitions before."""

    def save(self) -> object:
        """What `restore` needs to go back here."""

    def restore(self, saved: Any) -> None:
        """Go back to where that was saved."""


class TransitionTokenizer(nn.Module, ABC):
    """An autoencoder of transitions.

    Args:
        config: sizes.
        image_size: pixels, height and width of a frame.

    Attributes:
        encoding_fields: settings that tokens depend on, besides the weights.
        encoding_weights: how the names of those weights begin.
        decodes_alone: whether what came before a transition plays no role, so that `painter` is `decode`.
    """

    encoding_fields: ClassVar[tuple[str, ...]]
    encoding_weights: ClassVar[tuple[str, ...]]
    decodes_alone: ClassVar[bool]
    quantizer: CosineQuantizer
    encoder_act_emb: nn.Embedding

    def __init__(self, config: TokenizerConfig, *, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size = config, image_size

    @abstractmethod
    def encode(self, past_frames: Tensor, actions: Tensor, frames: Tensor) -> Tensor:
        """The tokens of transitions, each alone. No gradient.

        Args:
            past_frames: (N, 3, 64, 64) uint8.
            actions: (N,) int64 chosen on them.
            frames: (N, 3, 64, 64) uint8 that they led to.

        Returns:
            (N, 4) int64 in [0, V), row-major over the 2x2 grid.

        Raises:
            ShapeError: for other shapes or dtypes.
        """

    @abstractmethod
    def decode(self, past_frames: Tensor, actions: Tensor, tokens: Tensor) -> Tensor:
        """The frames that transitions lead to, as tokens tell, each alone. No gradient.

        Args:
            past_frames: (N, 3, 64, 64) uint8.
            actions: (N,) int64 chosen on them.
            tokens: (N, 4) int64.

        Returns:
            (N, 3, 64, 64) float32 in [0, 1], clamped but not rounded to 8 bits.

        Raises:
            ShapeError: for other shapes or dtypes.
        """

    @abstractmethod
    def encode_rows(self, frames: Tensor, actions: Tensor) -> Tensor:
        """The tokens of transitions in a row. No gradient.

        Args:
            frames: (B, T, 3, 64, 64) uint8.
            actions: (B, T - 1) int64 between them.

        Returns:
            (B, T - 1, 4) int64.
        """

    @abstractmethod
    def decode_rows(self, past_frames: Tensor, actions: Tensor, tokens: Tensor) -> Tensor:
        """The frames that transitions in a row lead to: (B, T, ...) of each as in `decode`, (B, T, 3, 64, 64)."""

    @abstractmethod
    def painter(self, frames: Tensor, actions: Tensor, tokens: Tensor, *, keep: int = 1) -> Painter:
        """What decodes one transition after the other, and knows those before.

        Args:
            frames: (B, C, 3, 64, 64) uint8, the last of which is the first to be decoded behind.
            actions: (B, C - 1) int64 between them.
            tokens: (B, C - 1, 4) int64 of the transitions between them.
            keep: frames that it goes on from where its positions are used up.

        Returns:
            A function of B frames, actions and tokens; it has to be called with each transition in turn.
        """

    @abstractmethod
    def vectors_of_rows(self, images: Tensor, actions: Tensor) -> Tensor:
        """What is quantized: images (B, T, 3, S, S) in [0, 1], actions (B, T - 1) -> (B * (T - 1), 4, D)."""

    @abstractmethod
    def images_of_rows(self, past: Tensor, actions: Tensor, vectors: Tensor) -> Tensor:
        """Images (N, 3, S, S), about [0, 1], from past ones (B, T, 3, S, S), actions (B, T) and vectors (N, 4, D).

        N is B * T; the vectors are what the quantizer made of `vectors_of_rows`.
        """

    def loss(self, segments: Segments, among: Tensor | None = None) -> Losses:
        """How far segments of T frames are from what the decoder makes of their T - 1 transitions.

        L1, squared error, each frame's largest squared error (means over transitions between two real frames), and
        commitment (a mean over all). The frames are not clamped.

        Args:
            segments: with frames; padding may be on either side.
            among: mask of the batch that the segments are a share of (`share_of_mean`); None: they are all of it.

        Returns:
            Parts l1_loss, l2_loss, max_pixel_loss, commitment_loss (weighted, they sum up to the total), perplexity
            and codes_used of this batch, and codebook_entropy in bits of the moving average of use.

        Raises:
            ShapeError: if the segments carry no frames, or fewer than two.
        """
        if segments.frames is None or segments.frames.shape[1] < 2:
            raise ShapeError("segments must carry two frames at least, for a transition between them")
        images = as_images(segments.frames)  # (B, T, 3, S, S)
        actions = segments.actions[:, :-1]
        quantized = self.quantizer(self.vectors_of_rows(images, actions))
        decoded = self.images_of_rows(images[:, :-1], actions, quantized.vectors)
        differences = images[:, 1:].flatten(0, 1) - decoded  # (N, 3, S, S)
        real = _transitions(segments.mask).flatten()  # (N,)
        all_real = None if among is None else _transitions(among).flatten()
        squares = differences.square()

        def mean(per_transition: Tensor) -> Tensor:
            return share_of_mean((per_transition * real).sum() / real.sum().clamp_min(1), real, all_real)

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
        state = self.state_dict()
        weights = [(name, tensor) for name, tensor in state.items() if name.startswith(self.encoding_weights)]
        return fingerprint({name: getattr(self.config, name) for name in self.encoding_fields}, weights)

    def _check(self, frames: Tensor, actions: Tensor) -> None:
        size = self.image_size
        if frames.shape[1:] != (CHANNELS, size, size) or frames.dtype != torch.uint8:
            raise ShapeError(
                f"frames must have shape (N, {CHANNELS}, {size}, {size}) and dtype uint8, "
                f"got {tuple(frames.shape)} and {str(frames.dtype).removeprefix('torch.')}"
            )
        if actions.shape != frames.shape[:1] or actions.dtype != torch.int64:
            raise ShapeError(
                f"actions must have shape (N,)=({len(frames)},) and dtype int64. "
                f"Got {tuple(actions.shape)} {actions.dtype}"
            )

    def _check_tokens(self, past_frames: Tensor, actions: Tensor, tokens: Tensor) -> None:
        self._check(past_frames, actions)
        if tokens.shape != (len(past_frames), TOKENS_PER_TRANSITION):
            raise ShapeError(
                f"tokens must have shape (N, K)=({len(past_frames)}, {TOKENS_PER_TRANSITION}). "
                f"Got {tuple(tokens.shape)}"
            )


def _transitions(mask: Tensor) -> Tensor:
    """(B, T) -> (B, T - 1) bool, those between two real frames."""
    return mask[:, :-1] & mask[:, 1:]


def as_images(frames: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1].

    Contiguous: on channels-last maps that hardly vary, GroupNorm on a CPU loses so much precision that tokens change.
    """
    return frames.contiguous().float().div_(255)


def padded(rows: Tensor, size: int) -> Tensor:
    """(n, ...) -> (size, ...), zeros behind."""
    return torch.cat([rows, rows.new_zeros(size - len(rows), *rows.shape[1:])])
