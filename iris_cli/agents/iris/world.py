"""The world of IRIS, acted in: the dynamics imagines tokens, the tokenizer decodes them.

Source: fact sheet of IRIS, section 4. Everything is drawn, never taken as most probable: reward, end, then, in order,
the 16 tokens of the next frame. One step is 17 small passes, and none of them waits for the device.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from iris_cli.agents.iris.config import TOKENS_PER_BLOCK, TOKENS_PER_FRAME
from iris_cli.agents.iris.dynamics import Dynamics
from iris_cli.agents.iris.tokenizer import Tokenizer
from iris_cli.errors import ShapeError
from iris_cli.learn.world import Forecast, Outcome
from iris_cli.nn.kv_cache import KVCache
from iris_cli.nn.sampling import sample

Draw = Callable[[Tensor], Tensor]  # logits (B, classes) -> (B,) int64


@dataclass(frozen=True)
class SavedDream:
    """Where a dream was; `IrisDream.restore` takes it back there."""

    read: Tensor  # of the cache
    past: tuple[Tensor, ...]
    between: tuple[Tensor, ...]
    view: Tensor


class IrisDream:
    """B imagined episodes. Both networks must be in eval mode: dropout would spoil what they imagine.

    Args:
        tokenizer: decodes views.
        dynamics: imagines.
        tokens: (B, C, 16) int64 of the last C real frames; the dream begins at the last of them. C = 1 is published.
        actions: (B, C - 1) int64 taken between them.
        generator: of the draws, on the tokens' device; None is torch's global one.
        greedy: take what is most probable instead.
        keep: frames that are read anew, with the actions between them, where the positions are used up. 1 is published;
            more keeps what only a sequence shows, such as where a ball is going.

    Attributes:
        tokens: (B, 16) of the present frame.
        view: (B, 3, 64, 64) float32 in [0, 1], the present frame as decoded from them.
        cache: what the dynamics has read.

    Raises:
        ShapeError: if tokens and actions do not agree, or reach beyond the positions.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        dynamics: Dynamics,
        tokens: Tensor,
        actions: Tensor,
        *,
        generator: torch.Generator | None = None,
        greedy: bool = False,
        keep: int = 1,
    ) -> None:
        assert not tokenizer.training
        assert not dynamics.training
        _check(tokens, actions, dynamics.config.max_blocks)
        self._tokenizer, self._dynamics = tokenizer, dynamics
        self._draw: Draw = partial(torch.argmax, dim=-1) if greedy else partial(sample, generator=generator)
        self.cache = dynamics.transformer.new_cache(len(tokens))
        keep = max(1, min(keep, dynamics.config.max_blocks - 1))  # a step must fit behind them
        self._past = deque(tokens.unbind(1), maxlen=keep)  # (B, 16) each, the present frame last
        self._between = deque(actions.unbind(1), maxlen=keep - 1)  # (B,) each, the actions between them
        self._read(tokens, actions)
        self.tokens = tokens[:, -1]
        self.view = tokenizer.decode(self.tokens)

    @torch.no_grad()
    def step(self, actions: Tensor, *, next_view: bool = True) -> Outcome:
        """Imagine what actions (B,) int64 lead to.

        Where the step would overrun the positions, all but the last `keep` frames are forgotten first. An imagined end
        stops nothing. Without `next_view` only reward and end are imagined, in one pass, and the dream is over.
        """
        self._make_room(actions, TOKENS_PER_BLOCK if next_view else 1)
        rewards, ends, tokens = imagine_step(self._dynamics, self.cache, actions, self._draw, next_frame=next_view)
        if tokens is None:
            return Outcome(rewards, ends, None)
        self.tokens = tokens
        self._past.append(tokens)
        self._between.append(actions)
        self.view = self._tokenizer.decode(tokens)
        return Outcome(rewards, ends, self.view)

    @torch.no_grad()
    def foretell(self, actions: Tensor) -> Forecast:
        """What is expected of actions (B,) int64; the dream stays as it is, and a `step` under them does as without."""
        self._make_room(actions, TOKENS_PER_BLOCK)
        length = self.cache.length
        hidden = self._dynamics.transformer(self._dynamics.embed_actions(actions[:, None]), self.cache)[:, 0]
        self.cache.length = length  # what was read is written over by the step
        signs = self._dynamics.head_rewards(hidden).float().softmax(-1)  # (B, 3)
        ends = self._dynamics.head_ends(hidden).float().softmax(-1)[:, 1]
        return Forecast(signs[:, 2] - signs[:, 0], ends, signs)

    def save(self) -> SavedDream:
        """All that `restore` needs, but for the generator's state, which whoever handed it in has to keep."""
        return SavedDream(self.cache.save(), tuple(self._past), tuple(self._between), self.view)

    def restore(self, saved: SavedDream) -> None:
        """Go back to where this dream was saved; the same actions and draws then lead to the same views."""
        self.cache.restore(saved.read)
        self._past, self._between = deque(saved.past, self._past.maxlen), deque(saved.between, self._between.maxlen)
        self.tokens, self.view = saved.past[-1], saved.view

    def _make_room(self, actions: Tensor, passes: int) -> None:
        """Forget all but the last `keep` frames where so many tokens more would overrun the positions."""
        if self.cache.length + passes > self.cache.max_tokens:
            between = torch.stack([*self._between, actions], 1)[:, :-1]  # (B, frames - 1), maybe none
            self._read(torch.stack(list(self._past), 1), between)

    @torch.no_grad()
    def _read(self, tokens: Tensor, actions: Tensor) -> None:
        self._dynamics.read_context(tokens, actions, self.cache)


def imagine_step(
    dynamics: Dynamics, cache: KVCache, actions: Tensor, draw: Draw, *, next_frame: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Imagine one step behind what the cache holds, and append it there.

    Hot path: static shapes, no allocation that grows, no waiting for the device.

    Args:
        dynamics: in eval mode, without gradients.
        cache: ends with a frame's 16 tokens, and has room for 17 more (1 without `next_frame`).
        actions: (B,) int64 chosen on that frame.
        draw: from logits to classes.
        next_frame: whether its tokens are wanted.

    Returns:
        rewards (B,) float32 in {-1, 0, 1}, ends (B,) bool, and tokens (B, 16) or None.
    """
    hidden = dynamics.transformer(dynamics.embed_actions(actions[:, None]), cache)[:, 0]  # (B, E)
    rewards = draw(dynamics.head_rewards(hidden).float()).float() - 1
    ends = draw(dynamics.head_ends(hidden).float()).bool()
    if not next_frame:
        return rewards, ends, None
    tokens = actions.new_empty(len(actions), TOKENS_PER_FRAME)
    for k in range(TOKENS_PER_FRAME):
        tokens[:, k] = draw(dynamics.head_tokens(hidden).float())
        hidden = dynamics.transformer(dynamics.embed_tokens(tokens[:, k : k + 1]), cache)[:, 0]
    return rewards, ends, tokens


def _check(tokens: Tensor, actions: Tensor, most: int) -> None:
    if tokens.dim() != 3 or tokens.shape[2] != TOKENS_PER_FRAME or not 1 <= tokens.shape[1] <= most:
        raise ShapeError(f"tokens must have shape (B, C <= {most}, {TOKENS_PER_FRAME}). Got {tuple(tokens.shape)}")
    expected = (len(tokens), tokens.shape[1] - 1)
    if actions.shape != expected:
        raise ShapeError(f"actions must have shape (B, C - 1)={expected}. Got {tuple(actions.shape)}")
