"""The dynamics of IRIS: a GPT over blocks of 16 frame tokens and an action, with heads for what comes next.

Source: fact sheet of IRIS, section 3. What is easy to miss: the last token of a frame predicts nothing, the action
predicts the next frame's first token, and so a segment's very first token is never predicted.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iris_cli.agents.iris.config import TOKENS_PER_BLOCK, TOKENS_PER_FRAME, DynamicsConfig
from iris_cli.errors import ShapeError
from iris_cli.learn.losses import Losses, share_of_mean
from iris_cli.nn.kv_cache import KVCache
from iris_cli.nn.transformer import Transformer, init_gpt
from iris_cli.replay.segments import Segments

REWARD_CLASSES = 3  # signs -1, 0, 1
END_CLASSES = 2  # goes on, ends
IGNORED = -100  # label of padding


@dataclass(frozen=True)
class DynamicsOutput:
    """Logits for T blocks.

    Attributes:
        logits_tokens: (B, T*16, V); row k is for token k + 1 of the flattened frames, the last for one yet to come.
        logits_rewards: (B, T, 3) for the sign of the reward after each action.
        logits_ends: (B, T, 2) for whether the episode ended with it.
    """

    logits_tokens: Tensor
    logits_rewards: Tensor
    logits_ends: Tensor


class Dynamics(nn.Module):
    """Predicts tokens, reward signs and ends.

    Args:
        config: sizes and dropout.
        codes: V, different tokens.
        num_actions: A.
    """

    def __init__(self, config: DynamicsConfig, *, codes: int, num_actions: int) -> None:
        super().__init__()
        self.config = config
        self.transformer = Transformer(
            layers=config.layers,
            heads=config.heads,
            width=config.width,
            max_tokens=config.max_blocks * TOKENS_PER_BLOCK,
            attention=config.attention,
            tokens_per_block=TOKENS_PER_BLOCK,
            embedding_dropout=config.embedding_dropout,
            attention_dropout=config.attention_dropout,
            residual_dropout=config.residual_dropout,
            gradient_checkpointing=config.gradient_checkpointing,
        )
        self.embed_actions = nn.Embedding(num_actions, config.width)
        self.embed_tokens = nn.Embedding(codes, config.width)
        self.head_tokens = _head(config.width, codes)
        self.head_rewards = _head(config.width, REWARD_CLASSES)
        self.head_ends = _head(config.width, END_CLASSES)
        self.apply(partial(init_gpt, std=config.init_std))

    def forward(self, tokens: Tensor, actions: Tensor) -> DynamicsOutput:
        """Predict what follows each token and action.

        Args:
            tokens: (B, T, 16) int64 in [0, V), T <= max_blocks.
            actions: (B, T) int64 in [0, A), chosen on those frames.

        Raises:
            ShapeError: for other shapes or dtypes.
        """
        self._check(tokens, actions)
        hidden = self.transformer(self.embed(tokens, actions)).unflatten(1, (-1, TOKENS_PER_BLOCK))  # (B, T, 17, E)
        after_action = hidden[:, :, -1]  # (B, T, E)
        predicting = torch.cat([hidden[:, :, : TOKENS_PER_FRAME - 1], hidden[:, :, -1:]], 2)  # (B, T, 16, E)
        return DynamicsOutput(
            logits_tokens=self.head_tokens(predicting.flatten(1, 2)),
            logits_rewards=self.head_rewards(after_action),
            logits_ends=self.head_ends(after_action),
        )

    def embed(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """(B, T, 16) tokens and (B, T) actions -> (B, T*17, E) embeddings, without positions."""
        return torch.cat([self.embed_tokens(tokens), self.embed_actions(actions)[:, :, None]], 2).flatten(1, 2)

    def read_context(self, tokens: Tensor, actions: Tensor, cache: KVCache) -> None:
        """Fill an empty cache with C - 1 whole blocks and the C-th frame, whose action is still to come.

        Args:
            tokens: (B, C, 16), C <= max_blocks.
            actions: (B, C - 1).
            cache: written from its start.
        """
        blocks = self.embed(tokens[:, :-1], actions)
        cache.reset()
        self.transformer(torch.cat([blocks, self.embed_tokens(tokens[:, -1])], 1), cache)

    def loss(self, segments: Segments, among: Tensor | None = None) -> Losses:
        """Cross-entropies of tokens, reward signs and ends, with equal weights.

        Each is a mean over all real entries of the batch, not of each row. Padding must be on the right, where
        causality keeps it out of what is real; its tokens may be any.

        Args:
            segments: with tokens (B, T, 16).
            among: mask of the batch that the segments are a share of (`share_of_mean`); None: they are all of it.

        Returns:
            Parts loss_tokens, loss_rewards, loss_ends (they sum up to the total), and the shares of right guesses
            token_accuracy, reward_accuracy, end_accuracy.

        Raises:
            ShapeError: if the segments carry no tokens, or too many steps.
        """
        if segments.tokens is None:
            raise ShapeError("segments must carry tokens to learn from. Got none")
        return self.loss_of(self(segments.tokens, segments.actions), segments, among)

    def loss_of(self, output: DynamicsOutput, segments: Segments, among: Tensor | None = None) -> Losses:
        """`loss`, from what was predicted for the segments."""
        assert segments.tokens is not None
        labels = labels_of(segments.tokens, segments.rewards, segments.ends, segments.mask)
        # The token after the last block is not in the segment, and the first one follows nothing.
        logits = (
            output.logits_tokens[:, :-1].flatten(0, 1),
            *(x.flatten(0, 1) for x in (output.logits_rewards, output.logits_ends)),
        )
        names = ("token", "reward", "end")
        losses = [F.cross_entropy(x.float(), y, ignore_index=IGNORED) for x, y in zip(logits, labels, strict=True)]
        accuracies = [_accuracy(x, y) for x, y in zip(logits, labels, strict=True)]
        if among is not None:
            real, all_real = _real_entries(segments.mask), _real_entries(among)
            losses = [share_of_mean(*each) for each in zip(losses, real, all_real, strict=True)]
            accuracies = [share_of_mean(*each) for each in zip(accuracies, real, all_real, strict=True)]
        parts = {f"loss_{name}s": loss.detach() for name, loss in zip(names, losses, strict=True)}
        parts |= {f"{name}_accuracy": accuracy for name, accuracy in zip(names, accuracies, strict=True)}
        return Losses(losses[0] + losses[1] + losses[2], parts)

    def _check(self, tokens: Tensor, actions: Tensor) -> None:
        most = self.config.max_blocks
        if tokens.dim() != 3 or tokens.shape[2] != TOKENS_PER_FRAME or not 1 <= tokens.shape[1] <= most:
            raise ShapeError(f"tokens must have shape (B, T <= {most}, {TOKENS_PER_FRAME}). Got {tuple(tokens.shape)}")
        if actions.shape != tokens.shape[:2]:
            raise ShapeError(f"actions must have shape (B, T)={tuple(tokens.shape[:2])}. Got {tuple(actions.shape)}")
        for name, values in (("tokens", tokens), ("actions", actions)):
            if values.dtype != torch.int64:
                raise ShapeError(f"{name} must be int64. Got {values.dtype}")


def labels_of(tokens: Tensor, rewards: Tensor, ends: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the heads should have said, padding as `IGNORED`.

    Args:
        tokens: (B, T, 16).
        rewards: (B, T) raw; only their sign is learned, so that 0.5 is as good as 200.
        ends: (B, T) bool.
        mask: (B, T) bool, true where real.

    Returns:
        tokens (B * (16T - 1),) from the second one on, reward classes (B * T,), end classes (B * T,).
    """
    padding = ~mask
    token_labels = tokens.masked_fill(padding[:, :, None], IGNORED).flatten(1)[:, 1:].flatten()
    reward_labels = (rewards.sign().long() + 1).masked_fill(padding, IGNORED).flatten()
    end_labels = ends.long().masked_fill(padding, IGNORED).flatten()
    return token_labels, reward_labels, end_labels


def _real_entries(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which tokens (B, 16T - 1), rewards (B, T) and ends (B, T) are learned, of a mask (B, T)."""
    return mask.repeat_interleave(TOKENS_PER_FRAME, 1)[:, 1:], mask, mask


@torch.no_grad()
def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of real labels that the most probable class hits."""
    return (logits.argmax(-1) == labels).sum() / (labels != IGNORED).sum()


def _head(width: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes))
