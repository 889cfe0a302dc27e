"""The world of Δ-IRIS, acted in: the dynamics imagines what changes, the tokenizer paints it into the present frame.

What is easy to miss: a transition's last token is read only with the next frame and action, in one pass of three;
imagined frames have 8 bits, for the policy and for whatever is imagined from them; where the positions are used up,
everything but the present frame is forgotten, and the positions start anew.

Source: fact sheet of Δ-IRIS, section 5.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from iris_cli.agents.delta_iris.config import TOKENS_PER_BLOCK, TOKENS_PER_TRANSITION
from iris_cli.agents.delta_iris.dynamics import Dynamics
from iris_cli.agents.delta_iris.tokenizer import Tokenizer
from iris_cli.errors import ShapeError
from iris_cli.learn.world import Forecast, Outcome
from iris_cli.nn.kv_cache import KVCache
from iris_cli.nn.sampling import sample

Draw = Callable[[Tensor], Tensor]  # logits (B, classes) -> (B,) int64


@dataclass(frozen=True)
class SavedDream:
    """Where a dream was; `DeltaIrisDream.restore` takes it back there."""

    read: Tensor  # of the cache
    unread: tuple[Tensor, ...]
    past: tuple[Tensor, ...]
    between: tuple[tuple[Tensor, Tensor], ...]
    tokens: Tensor | None


class DeltaIrisDream:
    """B imagined episodes. Both networks must be in eval mode, as the codebook must not move.

    Args:
        tokenizer: paints views.
        dynamics: imagines.
        frames: (B, C, 3, S, S) uint8, the last C real frames; the dream begins at the last of them.
        actions: (B, C - 1) int64 taken between them.
        tokens: (B, C - 1, 4) int64 of the transitions between them.
        generator: of the draws, on the frames' device; None is torch's global one.
        greedy: take what is most probable instead.
        keep: frames that are read anew, with what lies between them, where the positions are used up. 1 is published;
            more keeps what only a sequence shows, such as where a ball is going.

    Attributes:
        frames: (B, 3, S, S) uint8, the present frame.
        tokens: (B, 4) of the transition that led to it, once one was imagined.
        view: (B, 3, S, S) float32 in [0, 1], the present frame as the policy sees it.
        cache: what the dynamics has read.

    Raises:
        ShapeError: if frames, actions and tokens do not agree, or reach beyond the positions.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        dynamics: Dynamics,
        frames: Tensor,
        actions: Tensor,
        tokens: Tensor,
        *,
        generator: torch.Generator | None = None,
        greedy: bool = False,
        keep: int = 1,
    ) -> None:
        assert not tokenizer.training
        assert not dynamics.training
        _check(frames, actions, tokens, dynamics.config.max_blocks)
        self._tokenizer, self._dynamics = tokenizer, dynamics
        self._draw: Draw = partial(torch.argmax, dim=-1) if greedy else partial(sample, generator=generator)
        keep = max(1, min(keep, dynamics.config.max_blocks - 1))  # a step must fit behind them
        self._past = deque(frames.unbind(1), maxlen=keep)  # (B, 3, S, S) each, the present frame last
        self._between = deque(zip(actions.unbind(1), tokens.unbind(1), strict=True), maxlen=keep - 1)
        self.cache = dynamics.transformer.new_cache(len(frames))
        self.frames, self.tokens = frames[:, -1], None if tokens.shape[1] == 0 else tokens[:, -1]
        self.view = view_of(self.frames)
        with torch.no_grad():
            dynamics.read_context(frames, actions, tokens, self.cache)
        self._unread: list[Tensor] = []  # (B, 1, E) embeddings to be read before the next action

    @torch.no_grad()
    def step(self, actions: Tensor, *, next_view: bool = True) -> Outcome:
        """Imagine what actions (B,) int64 lead to.

        Where less than a block and a position is left, all but the last `keep` frames are forgotten first. An imagined
        end stops nothing. Without `next_view` only reward and end are imagined, in one pass, and the dream is over.
        """
        self._make_room()
        rewards, ends, tokens = imagine_step(
            self._dynamics, self.cache, self._unread, actions, self._draw, next_frame=next_view
        )
        if tokens is None:
            return Outcome(rewards, ends, None)
        self.frames = to_8_bits(self._tokenizer.decode(self.frames, actions, tokens))
        self.tokens, self.view = tokens, view_of(self.frames)
        self._past.append(self.frames)
        self._between.append((actions, tokens))
        last = self._dynamics.embed_tokens(tokens[:, -1:])
        self._unread = [last, self._dynamics.embed_frames(self.frames)[:, None]]
        return Outcome(rewards, ends, self.view)

    @torch.no_grad()
    def foretell(self, actions: Tensor) -> Forecast:
        """What is expected of actions (B,) int64; the dream stays as it is, and a `step` under them does as without."""
        self._make_room()
        length, dynamics = self.cache.length, self._dynamics
        inputs = torch.cat([*self._unread, dynamics.embed_actions(actions[:, None])], 1)
        hidden = dynamics.transformer(inputs, self.cache)[:, -1]
        self.cache.length = length  # what was read is written over by the step
        ends = dynamics.head_ends(hidden).softmax(-1)[:, 1]
        if dynamics.config.rewards == "symlog":
            return Forecast(dynamics.two_hot.expectation(dynamics.head_rewards(hidden)), ends, None)
        signs = dynamics.head_rewards(hidden).softmax(-1)  # (B, 3)
        return Forecast(signs[:, 2] - signs[:, 0], ends, signs)

    def save(self) -> SavedDream:
        """All that `restore` needs, but for the generator's state, which whoever handed it in has to keep."""
        past, between = tuple(self._past), tuple(self._between)
        return SavedDream(self.cache.save(), tuple(self._unread), past, between, self.tokens)

    def restore(self, saved: SavedDream) -> None:
        """Go back to where this dream was saved; the same actions and draws then lead to the same views."""
        self.cache.restore(saved.read)
        self._past, self._between = deque(saved.past, self._past.maxlen), deque(saved.between, self._between.maxlen)
        self._unread, self.tokens, self.frames = list(saved.unread), saved.tokens, saved.past[-1]
        self.view = view_of(self.frames)

    def _make_room(self) -> None:
        """Forget all but the last `keep` frames where less than a block and a position is left."""
        if self.cache.length >= self.cache.max_tokens - TOKENS_PER_BLOCK:
            self._forget()

    def _forget(self) -> None:
        """Empty the cache, read what is kept but the present frame, and leave that to the next pass."""
        self.cache.reset()
        if self._between:
            past = torch.stack(list(self._past)[:-1], 1)
            actions, tokens = (torch.stack(parts, 1) for parts in zip(*self._between, strict=True))
            self._dynamics.transformer(self._dynamics.embed(past, actions, tokens), self.cache)
        self._unread = [self._dynamics.embed_frames(self.frames)[:, None]]


def imagine_step(
    dynamics: Dynamics, cache: KVCache, unread: list[Tensor], actions: Tensor, draw: Draw, *, next_frame: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Imagine one step behind what the cache holds, and append it there but for its last token.

    Hot path: static shapes, no allocation that grows, no waiting for the device.

    Args:
        dynamics: in eval mode, without gradients.
        cache: with room for what is unread and four tokens more (one without `next_frame`).
        unread: (B, n, E) embeddings since what the cache holds, up to the present frame.
        actions: (B,) int64 chosen on that frame.
        draw: from logits to classes; called for the reward (where that is a sign), the end, and each token.
        next_frame: whether its tokens are wanted.

    Returns:
        rewards (B,) float32, ends (B,) bool, and tokens (B, 4) or None.
    """
    inputs = torch.cat([*unread, dynamics.embed_actions(actions[:, None])], 1)
    hidden = dynamics.transformer(inputs, cache)[:, -1]  # (B, E)
    rewards = dynamics.rewards_of(hidden, draw)
    ends = draw(dynamics.head_ends(hidden)).bool()
    if not next_frame:
        return rewards, ends, None
    tokens = actions.new_empty(len(actions), TOKENS_PER_TRANSITION)
    for k in range(TOKENS_PER_TRANSITION):
        if k > 0:
            hidden = dynamics.transformer(dynamics.embed_tokens(tokens[:, k - 1 : k]), cache)[:, 0]
        tokens[:, k] = draw(dynamics.head_tokens(hidden))
    return rewards, ends, tokens


def to_8_bits(frames: Tensor) -> Tensor:
    """Floats in [0, 1] -> uint8, halves to even."""
    return (frames * 255).round().to(torch.uint8)


def view_of(frames: Tensor) -> Tensor:
    """What the policy sees of frames: uint8 -> float32 in [0, 1]."""
    return frames.contiguous().float().div_(255)


def _check(frames: Tensor, actions: Tensor, tokens: Tensor, most: int) -> None:
    if frames.dim() != 5 or frames.dtype != torch.uint8 or not 1 <= frames.shape[1] <= most:
        raise ShapeError(
            f"frames must have shape (B, C <= {most}, 3, 64, 64) and dtype uint8. Got {tuple(frames.shape)}"
        )
    expected = (len(frames), frames.shape[1] - 1)
    if actions.shape != expected:
        raise ShapeError(f"actions must have shape (B, C - 1)={expected}. Got {tuple(actions.shape)}")
    if tokens.shape != (*expected, TOKENS_PER_TRANSITION):
        raise ShapeError(
            f"tokens must have shape (B, C - 1, K)={(*expected, TOKENS_PER_TRANSITION)}. Got {tuple(tokens.shape)}"
        )
