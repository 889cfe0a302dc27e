"""The dynamics of Δ-IRIS: a GPT over blocks of a frame, an action and the four tokens of the transition to the next.

What is easy to miss: reward and end are read at the action, before the transition's tokens are there; the frame and a
block's last token predict nothing; the last block of a segment has no transition, and its tokens stand for nothing.

Source: fact sheet of Δ-IRIS, section 3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iris_cli.agents.delta_iris.config import (
    IMAGE_SIZE,
    TOKENS_PER_BLOCK,
    TOKENS_PER_TRANSITION,
    DynamicsConfig,
    map_size,
)
from iris_cli.errors import ShapeError
from iris_cli.learn.losses import Losses, share_of_mean
from iris_cli.nn.kv_cache import KVCache
from iris_cli.nn.residual import FrameEncoder
from iris_cli.nn.transformer import Transformer, init_gpt
from iris_cli.nn.two_hot import TwoHotSymlog
from iris_cli.replay.segments import Segments

REWARD_SIGNS = 3  # classes -1, 0, 1
REWARD_BUCKETS = 255  # of two-hot rewards
END_CLASSES = 2  # goes on, ends
ACTION = 1  # position of the action in its block


@dataclass(frozen=True)
class DynamicsOutput:
    """Logits for T blocks.

    Attributes:
        logits_tokens: (B, T*4, V); row 4t + k is for token k of the transition that starts at step t.
        logits_rewards: (B, T, 3) for the sign of the reward after each action, or (B, T, 255) two-hot buckets.
        logits_ends: (B, T, 2) for whether the episode ended with it.
    """

    logits_tokens: Tensor
    logits_rewards: Tensor
    logits_ends: Tensor


class Dynamics(nn.Module):
    """Predicts tokens of transitions, rewards and ends.

    Args:
        config: sizes.
        codes: V, different tokens.
        num_actions: A.
        image_size: pixels, height and width of a frame.
    """

    def __init__(self, config: DynamicsConfig, *, codes: int, num_actions: int, image_size: int = IMAGE_SIZE) -> None:
        super().__init__()
        self.config = config
        self.transformer = Transformer(
            layers=config.layers,
            heads=config.heads,
            width=config.width,
            max_tokens=config.max_blocks * TOKENS_PER_BLOCK,
        )
        self.frame_cnn = FrameEncoder(
            3,
            config.width // map_size(config, image_size) ** 2,
            base=config.base_channels,
            multipliers=config.channel_multipliers,
            halvings=config.halvings,
            patch=config.patch,
        )
        self.frame_norm = nn.LayerNorm(config.width)
        self.embed_actions = nn.Embedding(num_actions, config.width)
        self.embed_tokens = nn.Embedding(codes, config.width)
        self.two_hot = TwoHotSymlog(REWARD_BUCKETS)
        self.head_tokens = _head(config.width, codes)
        self.head_rewards = _head(config.width, REWARD_BUCKETS if config.rewards == "symlog" else REWARD_SIGNS)
        self.head_ends = _head(config.width, END_CLASSES)
        self.apply(partial(init_gpt, std=config.init_std))

    def forward(self, frames: Tensor, actions: Tensor, tokens: Tensor) -> DynamicsOutput:
        """Predict what each action leads to.

        Args:
            frames: (B, T, 3, 64, 64) uint8, T <= max_blocks.
            actions: (B, T) int64 in [0, A), chosen on those frames.
            tokens: (B, T, 4) int64 in [0, V), of the transitions they lead to. Nothing depends on the very last one.

        Raises:
            ShapeError: for other shapes or dtypes.
        """
        self._check(frames, actions, tokens)
        hidden = self.transformer(self.embed(frames, actions, tokens)).unflatten(1, (-1, TOKENS_PER_BLOCK))
        after_action = hidden[:, :, ACTION]  # (B, T, E)
        predicting = hidden[:, :, ACTION : ACTION + TOKENS_PER_TRANSITION]  # (B, T, 4, E)
        return DynamicsOutput(
            logits_tokens=self.head_tokens(predicting.flatten(1, 2)),
            logits_rewards=self.head_rewards(after_action),
            logits_ends=self.head_ends(after_action),
        )

    def embed(self, frames: Tensor, actions: Tensor, tokens: Tensor) -> Tensor:
        """Frames (B, T, ...), actions (B, T) and tokens (B, T, 4) -> (B, T*6, E) embeddings, without positions."""
        parts = [
            self.embed_frames(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])[:, :, None],
            self.embed_actions(actions)[:, :, None],
            self.embed_tokens(tokens),
        ]
        return torch.cat(parts, 2).flatten(1, 2)

    def embed_frames(self, frames: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 -> (N, E): the pixels of the encoder's map, the channel fastest, normalised."""
        images = frames.contiguous().float().div_(255)  # contiguous: see the tokenizer
        return self.frame_norm(self.frame_cnn(images).permute(0, 2, 3, 1).flatten(1))

    def rewards_of(self, hidden: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
        """Rewards (B,) from what an action's position holds (B, E): the expectation, or a drawn sign."""
        logits = self.head_rewards(hidden)
        return self.two_hot.expectation(logits) if self.config.rewards == "symlog" else draw(logits).float() - 1

    def read_context(self, frames: Tensor, actions: Tensor, tokens: Tensor, cache: KVCache) -> None:
        """Fill an empty cache with C - 1 whole blocks and the C-th frame, whose action is still to come.

        Args:
            frames: (B, C, 3, S, S) uint8, C <= max_blocks.
            actions: (B, C - 1).
            tokens: (B, C - 1, 4).
            cache: written from its start.
        """
        blocks = self.embed(frames[:, :-1], actions, tokens)
        cache.reset()
        self.transformer(torch.cat([blocks, self.embed_frames(frames[:, -1])[:, None]], 1), cache)

    def loss(self, segments: Segments, among: Tensor | None = None) -> Losses:
        """Cross-entropies of tokens, rewards and ends, weighted.

        Each is a mean over all real steps of the batch, not of each row. Padding may be on either side; it is read
        like anything else. A transition out of a real step counts even if it leads into padding, as published.

        Args:
            segments: with frames and tokens (B, T, 4), of which the last step's are not read.
            among: mask of the batch that the segments are a share of (`share_of_mean`); None: they are all of it.

        Returns:
            Parts loss_tokens, loss_rewards, loss_ends (weighted, they sum up to the total), and the shares of right
            guesses token_accuracy and end_accuracy.

        Raises:
            ShapeError: if the segments carry no frames or tokens, or too many steps.
        """
        if segments.frames is None or segments.tokens is None:
            raise ShapeError("segments must carry frames and tokens to learn from. Got none")
        config, mask = self.config, segments.mask
        labels = torch.cat([segments.tokens[:, :-1], torch.zeros_like(segments.tokens[:, :1])], 1)
        output = self(segments.frames, segments.actions, labels)

        def of_steps(values: Tensor) -> Tensor:
            return share_of_mean(_mean(values, mask), mask, among)

        def of_tokens(values: Tensor) -> Tensor:
            mean = _mean(values, _leading_on(mask)[:, :, None].expand_as(labels))
            return share_of_mean(mean, _leading_on(mask), None if among is None else _leading_on(among))

        logits_tokens = output.logits_tokens.unflatten(1, labels.shape[1:])  # (B, T, 4, V)
        ends = segments.ends.long()
        parts = {
            "loss_tokens": config.tokens_weight * of_tokens(_cross_entropies(logits_tokens, labels)),
            "loss_rewards": config.rewards_weight * of_steps(self._of_rewards(output, segments.rewards)),
            "loss_ends": config.ends_weight * of_steps(_cross_entropies(output.logits_ends, ends)),
        }
        total = torch.stack(list(parts.values())).sum()
        parts["token_accuracy"] = of_tokens((logits_tokens.argmax(-1) == labels).float())
        parts["end_accuracy"] = of_steps((output.logits_ends.argmax(-1) == ends).float())
        return Losses(total, {name: part.detach() for name, part in parts.items()})

    def _of_rewards(self, output: DynamicsOutput, rewards: Tensor) -> Tensor:
        """Cross-entropies (B, T) of raw rewards: of their size on a log scale, or of their sign only."""
        if self.config.rewards == "symlog":
            return self.two_hot.loss(output.logits_rewards, rewards)
        return _cross_entropies(output.logits_rewards, rewards.sign().long() + 1)

    def _check(self, frames: Tensor, actions: Tensor, tokens: Tensor) -> None:
        most = self.config.max_blocks
        if frames.dim() != 5 or frames.dtype != torch.uint8 or not 1 <= frames.shape[1] <= most:
            raise ShapeError(
                f"frames must have shape (B, T <= {most}, 3, {IMAGE_SIZE}, {IMAGE_SIZE}) and dtype uint8. "
                f"Got {tuple(frames.shape)} {frames.dtype}"
            )
        steps = tuple(frames.shape[:2])
        if actions.shape != steps:
            raise ShapeError(f"actions must have shape (B, T)={steps}. Got {tuple(actions.shape)}")
        if tokens.shape != (*steps, TOKENS_PER_TRANSITION):
            raise ShapeError(
                f"tokens must have shape (B, T, K)={(*steps, TOKENS_PER_TRANSITION)}. Got {tuple(tokens.shape)}"
            )
        for name, values in (("tokens", tokens), ("actions", actions)):
            if values.dtype != torch.int64:
                raise ShapeError(f"{name} must be int64. Got {values.dtype}")


def _cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """(..., classes) and (...) -> (...)."""
    return F.cross_entropy(logits.movedim(-1, 1), labels, reduction="none")


def _leading_on(mask: Tensor) -> Tensor:
    """(B, T) bool, real steps whose transition is in the segment."""
    return torch.cat([mask[:, :-1], torch.zeros_like(mask[:, :1])], 1)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of the values where the mask is true; 0 if it nowhere is."""
    return (values * where).sum() / where.sum().clamp_min(1)


def _head(width: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes))
