"""The world of IRIS, acted in: the dynamics imagines tokens, the tokenizer decodes them.

Source: fact sheet of IRIS, section 4. Everything is drawn, never taken as most probable: reward, end, then, in order,
the 16 tokens of the next frame. One step is 17 small passes, and none of them waits for the device.
"""

import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from iris_cli.agents.iris.config import TOKENS_PER_BLOCK, TOKENS_PER_FRAME
from iris_cli.agents.iris.dynamics import Dynamics
from iris_cli.agents.iris.tokenizer import Tokenizer
from iris_cli.errors import ShapeError
from iris_cli.learn.world import Forecast, Outcome
from iris_cli.nn.graphs import Graphs, identity
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


class Workspace:
    """What the dreams of B episodes are worked out in, one dream after another: memory that never moves.

    Every piece of work reads and writes only the networks and the tensors below, so that on CUDA it becomes a graph:
    one for each length that the cache has when a step begins, with attention over just that length.

    Args:
        tokenizer, dynamics: in eval mode.
        batch: B.
        greedy: take what is most probable instead of drawing.
        capture: whether to make graphs; it pays for dreams that are begun again and again.

    Attributes:
        cache: what the dynamics has read.
        past: (B, max_blocks, 16) int64, tokens of the frames to be read next; `between` (B, max_blocks) the actions.
        actions: (B,) int64 of the step to be imagined.
        rewards, ends: (B,) float32 and bool that it led to.
        tokens: (B, 16) int64 of the present frame.
    """

    def __init__(
        self, tokenizer: Tokenizer, dynamics: Dynamics, batch: int, *, greedy: bool = False, capture: bool = False
    ) -> None:
        self._tokenizer, self._dynamics, self._greedy = tokenizer, dynamics, greedy
        self._identity = identity(tokenizer, dynamics)
        self._dream: weakref.ref[IrisDream] | None = None
        device, blocks = dynamics.embed_tokens.weight.device, dynamics.config.max_blocks
        self._graphs = Graphs(device, capture=capture)
        self.cache = dynamics.transformer.new_cache(batch)
        self.past = torch.zeros(batch, blocks, TOKENS_PER_FRAME, dtype=torch.int64, device=device)
        self.between = torch.zeros(batch, blocks, dtype=torch.int64, device=device)
        self.actions = torch.zeros(batch, dtype=torch.int64, device=device)
        self.rewards = torch.zeros(batch, device=device)
        self.ends = torch.zeros(batch, dtype=torch.bool, device=device)
        self.tokens = torch.zeros(batch, TOKENS_PER_FRAME, dtype=torch.int64, device=device)
        self._view: Tensor | None = None  # as the tokenizer lays it out, which is known with the first

    @property
    def view(self) -> Tensor:
        """(B, 3, 64, 64), once something was looked at."""
        assert self._view is not None
        return self._view

    @property
    def batch(self) -> int:
        """B"""
        return len(self.tokens)

    def serves(self, tokenizer: Tokenizer, dynamics: Dynamics, batch: int) -> bool:
        """Whether a dream of B episodes in these networks, as they are now, can be worked out here."""
        busy = self._dream is not None and self._dream() is not None
        return not busy and self.batch == batch and self._identity == identity(tokenizer, dynamics)

    def begin(self, dream: "IrisDream") -> None:
        """Be this dream's, for as long as it lives."""
        assert not self._tokenizer.training
        assert not self._dynamics.training
        self._dream = weakref.ref(dream)

    @torch.no_grad()
    def read(self, tokens: Tensor, actions: Tensor) -> None:
        """Forget everything, and read frames (B, C, 16) with the actions (B, C - 1) between them."""
        frames = tokens.shape[1]
        self.past[:, :frames], self.between[:, : frames - 1] = tokens, actions
        self._graphs.run(("read", frames), lambda: self._read(frames))
        self.cache.length = frames * TOKENS_PER_BLOCK - 1

    @torch.no_grad()
    def look(self, tokens: Tensor) -> None:
        """Decode tokens (B, 16), the present frame."""
        self.tokens.copy_(tokens)
        self._graphs.run("look", self._look)

    @torch.no_grad()
    def step(self, actions: Tensor, generator: torch.Generator | None, *, next_view: bool) -> None:
        """Imagine what actions (B,) lead to, with room for it in the cache."""
        self.actions.copy_(actions)
        length = self.cache.length
        self._graphs.run(("step", length, next_view), lambda: self._step(length, next_view=next_view), generator)
        self.cache.length = length + (TOKENS_PER_BLOCK if next_view else 1)

    @torch.no_grad()
    def foretell(self, actions: Tensor) -> Forecast:
        """What is expected of actions (B,), with room for one in the cache, which stays as it is."""
        length = self.cache.length
        hidden = self._dynamics.transformer(self._dynamics.embed_actions(actions[:, None]), self.cache)[:, 0]
        self.cache.length = length  # what was read is written over by the step
        signs = self._dynamics.head_rewards(hidden).float().softmax(-1)  # (B, 3)
        ends = self._dynamics.head_ends(hidden).float().softmax(-1)[:, 1]
        return Forecast(signs[:, 2] - signs[:, 0], ends, signs)

    def draw(self, logits: Tensor) -> Tensor:
        """From logits (B, classes) to (B,)."""
        return logits.argmax(-1) if self._greedy else sample(logits, self._graphs.generator)

    def _read(self, frames: int) -> None:
        self._dynamics.read_context(self.past[:, :frames], self.between[:, : frames - 1], self.cache)

    def _look(self) -> None:
        images = self._tokenizer.decode(self.tokens)
        if self._view is None:
            self._view = torch.empty_like(images)
        self._view.copy_(images)

    def _step(self, length: int, *, next_view: bool) -> None:
        self.cache.length = length
        tokens = self.tokens if next_view else None
        rewards, ends = imagine_step(self._dynamics, self.cache, self.actions, self.draw, tokens)
        self.rewards.copy_(rewards)
        self.ends.copy_(ends)
        if next_view:
            self._look()


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
        workspace: of these networks and B, which no other dream uses, in place of `greedy`; None is a new one.

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
        workspace: Workspace | None = None,
    ) -> None:
        _check(tokens, actions, dynamics.config.max_blocks)
        self._work = workspace or Workspace(tokenizer, dynamics, len(tokens), greedy=greedy)
        self._work.begin(self)
        self._generator, self.cache = generator, self._work.cache
        keep = max(1, min(keep, dynamics.config.max_blocks - 1))  # a step must fit behind them
        self._past = deque(tokens.unbind(1), maxlen=keep)  # (B, 16) each, the present frame last
        self._between = deque(actions.unbind(1), maxlen=keep - 1)  # (B,) each, the actions between them
        self._work.read(tokens, actions)
        self._work.look(tokens[:, -1])
        self.tokens, self.view = tokens[:, -1], self._work.view.clone()

    def step(self, actions: Tensor, *, next_view: bool = True) -> Outcome:
        """Imagine what actions (B,) int64 lead to.

        Where the step would overrun the positions, all but the last `keep` frames are forgotten first. An imagined end
        stops nothing. Without `next_view` only reward and end are imagined, in one pass, and the dream is over.
        """
        work = self._work
        self._make_room(actions, TOKENS_PER_BLOCK if next_view else 1)
        work.step(actions, self._generator, next_view=next_view)
        rewards, ends = work.rewards.clone(), work.ends.clone()  # the next step writes there
        if not next_view:
            return Outcome(rewards, ends, None)
        self.tokens, self.view = work.tokens.clone(), work.view.clone()
        self._past.append(self.tokens)
        self._between.append(actions)
        return Outcome(rewards, ends, self.view)

    def foretell(self, actions: Tensor) -> Forecast:
        """What is expected of actions (B,) int64; the dream stays as it is, and a `step` under them does as without."""
        self._make_room(actions, TOKENS_PER_BLOCK)
        return self._work.foretell(actions)

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
            self._work.read(torch.stack(list(self._past), 1), between)


def imagine_step(
    dynamics: Dynamics, cache: KVCache, actions: Tensor, draw: Draw, tokens: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Imagine one step behind what the cache holds, and append it there.

    Hot path: static shapes, no allocation that grows, no waiting for the device.

    Args:
        dynamics: in eval mode, without gradients.
        cache: ends with a frame, and has room for an action and the tokens.
        actions: (B,) int64 chosen on that frame.
        draw: from logits to classes.
        tokens: (B, K) int64, where those of the next frame are written; None where they are not wanted.

    Returns:
        rewards (B,) float32 in {-1, 0, 1} and ends (B,) bool.
    """
    hidden = dynamics.transformer(dynamics.embed_actions(actions[:, None]), cache)[:, 0]  # (B, E)
    rewards = draw(dynamics.head_rewards(hidden).float()).float() - 1
    ends = draw(dynamics.head_ends(hidden).float()).bool()
    if tokens is None:
        return rewards, ends
    for k in range(tokens.shape[1]):
        tokens[:, k] = draw(dynamics.head_tokens(hidden).float())
        hidden = dynamics.transformer(dynamics.embed_tokens(tokens[:, k : k + 1]), cache)[:, 0]
    return rewards, ends


def _check(tokens: Tensor, actions: Tensor, most: int) -> None:
    if tokens.dim() != 3 or tokens.shape[2] != TOKENS_PER_FRAME or not 1 <= tokens.shape[1] <= most:
        raise ShapeError(f"tokens must have shape (B, C <= {most}, {TOKENS_PER_FRAME}). Got {tuple(tokens.shape)}")
    expected = (len(tokens), tokens.shape[1] - 1)
    if actions.shape != expected:
        raise ShapeError(f"actions must have shape (B, C - 1)={expected}. Got {tuple(actions.shape)}")
