"""The world of Δ-IRIS, acted in: the dynamics imagines what changes, the tokenizer paints it into the present frame.

What is easy to miss: a transition's last token is read only with the next frame and action, in one pass of three;
imagined frames have 8 bits, for the policy and for whatever is imagined from them; where the positions are used up,
everything but the present frame is forgotten, and the positions start anew.

Source: fact sheet of Δ-IRIS, section 5.
"""

import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from iris_cli.agents.delta_iris.config import TOKENS_PER_BLOCK, TOKENS_PER_TRANSITION
from iris_cli.agents.delta_iris.dynamics import Dynamics
from iris_cli.agents.delta_iris.transition_tokenizer import Paint, Painter, TransitionTokenizer
from iris_cli.errors import ShapeError
from iris_cli.learn.world import Forecast, Outcome
from iris_cli.nn.graphs import Graphs, identity
from iris_cli.nn.kv_cache import KVCache
from iris_cli.nn.sampling import sample

Draw = Callable[[Tensor], Tensor]  # logits (B, classes) -> (B,) int64


@dataclass(frozen=True)
class SavedDream:
    """Where a dream was; `DeltaIrisDream.restore` takes it back there."""

    read: Tensor  # of the cache
    unread: tuple[int, Tensor]  # how many embeddings, and their memory
    painted: object  # of the painter
    past: tuple[Tensor, ...]
    between: tuple[tuple[Tensor, Tensor], ...]
    tokens: Tensor | None


class Workspace:
    """What the dreams of B episodes are worked out in, one dream after another: memory that never moves.

    A step reads and writes only the networks and the tensors below, so that on CUDA it becomes a graph, one for each
    length that the cache has when a step begins.

    Args:
        tokenizer, dynamics: in eval mode.
        batch: B.
        greedy: take what is most probable instead of drawing.
        capture: whether to make graphs; it pays for dreams that are begun again and again.

    Attributes:
        cache: what the dynamics has read.
        frames: (B, 3, S, S) uint8, the present ones.
        actions: (B,) int64 of the step to be imagined.
        rewards, ends: (B,) float32 and bool that it led to.
        tokens: (B, 4) int64 of the transition.
        unread: how many embeddings there are to be read before the next action: 0, the present frame's, or the last
            token's and the frame's.
    """

    def __init__(
        self,
        tokenizer: TransitionTokenizer,
        dynamics: Dynamics,
        batch: int,
        *,
        greedy: bool = False,
        capture: bool = False,
    ) -> None:
        self._tokenizer, self._dynamics, self._greedy = tokenizer, dynamics, greedy
        self._paint: Paint = tokenizer.decode
        self._identity = identity(tokenizer, dynamics)
        self._dream: weakref.ref[DeltaIrisDream] | None = None
        weight = dynamics.embed_tokens.weight
        device, size = weight.device, tokenizer.image_size
        self._graphs = Graphs(device, capture=capture and tokenizer.decodes_alone)
        self.cache = dynamics.transformer.new_cache(batch)
        self.frames = torch.zeros(batch, 3, size, size, dtype=torch.uint8, device=device)
        self.actions = torch.zeros(batch, dtype=torch.int64, device=device)
        self.rewards = torch.zeros(batch, device=device)
        self.ends = torch.zeros(batch, dtype=torch.bool, device=device)
        self.tokens = torch.zeros(batch, TOKENS_PER_TRANSITION, dtype=torch.int64, device=device)
        self.unread = 0
        self._embedded = weight.new_zeros(batch, 2, weight.shape[1])  # what is unread, at its end

    def serves(self, tokenizer: TransitionTokenizer, dynamics: Dynamics, batch: int) -> bool:
        """Whether a dream of B episodes in these networks, as they are now, can be worked out here."""
        busy = self._dream is not None and self._dream() is not None
        return not busy and len(self.tokens) == batch and self._identity == identity(tokenizer, dynamics)

    def begin(self, dream: "DeltaIrisDream", paint: Paint) -> None:
        """Be this dream's, whose views are painted so, for as long as it lives."""
        assert not self._tokenizer.training
        assert not self._dynamics.training
        self._dream, self._paint = weakref.ref(dream), paint

    @torch.no_grad()
    def read(self, frames: Tensor, actions: Tensor, tokens: Tensor) -> None:
        """Forget everything, and read frames (B, C, ...) with what lies between them; the last one is the present."""
        self._dynamics.read_context(frames, actions, tokens, self.cache)
        self.frames.copy_(frames[:, -1])
        self.unread = 0

    @torch.no_grad()
    def read_but_the_present(self, frames: Tensor, actions: Tensor, tokens: Tensor) -> None:
        """Forget everything but the present frame, read C frames before it, maybe none, and what lies after each."""
        self.cache.reset()
        if frames.shape[1]:
            self._dynamics.transformer(self._dynamics.embed(frames, actions, tokens), self.cache)
        self.show(self.frames)
        self.unread = 1

    @torch.no_grad()
    def show(self, frames: Tensor) -> None:
        """Make these frames (B, 3, S, S) the present ones, still to be read."""
        self.frames.copy_(frames)
        self._embedded[:, 1] = self._dynamics.embed_frames(self.frames)

    @torch.no_grad()
    def step(self, actions: Tensor, generator: torch.Generator | None, *, next_view: bool) -> None:
        """Imagine what actions (B,) lead to, with room for it in the cache."""
        self.actions.copy_(actions)
        length, unread = self.cache.length, self.unread
        self._graphs.run(
            ("step", length, unread, next_view), lambda: self._step(length, unread, next_view=next_view), generator
        )
        self.cache.length = length + unread + (TOKENS_PER_TRANSITION if next_view else 1)
        self.unread = 2

    @torch.no_grad()
    def foretell(self, actions: Tensor) -> Forecast:
        """What is expected of actions (B,), with room for a step in the cache, which stays as it is."""
        length, dynamics = self.cache.length, self._dynamics
        inputs = torch.cat([self._embedded[:, 2 - self.unread :], dynamics.embed_actions(actions[:, None])], 1)
        hidden = dynamics.transformer(inputs, self.cache)[:, -1]
        self.cache.length = length  # what was read is written over by the step
        ends = dynamics.head_ends(hidden).softmax(-1)[:, 1]
        if dynamics.config.rewards == "symlog":
            return Forecast(dynamics.two_hot.expectation(dynamics.head_rewards(hidden)), ends, None)
        signs = dynamics.head_rewards(hidden).softmax(-1)  # (B, 3)
        return Forecast(signs[:, 2] - signs[:, 0], ends, signs)

    def save(self) -> tuple[int, Tensor]:
        """What is unread, for `restore`."""
        return self.unread, self._embedded.clone()

    def restore(self, frames: Tensor, unread: tuple[int, Tensor]) -> None:
        """Make these frames (B, 3, S, S) the present ones, and this what is unread."""
        self.frames.copy_(frames)
        self.unread = unread[0]
        self._embedded.copy_(unread[1])

    def draw(self, logits: Tensor) -> Tensor:
        """From logits (B, classes) to (B,)."""
        return logits.argmax(-1) if self._greedy else sample(logits, self._graphs.generator)

    def _step(self, length: int, unread: int, *, next_view: bool) -> None:
        self.cache.length = length
        rewards, ends, tokens = imagine_step(
            self._dynamics, self.cache, self._embedded[:, 2 - unread :], self.actions, self.draw, next_frame=next_view
        )
        self.rewards.copy_(rewards)
        self.ends.copy_(ends)
        if tokens is not None:
            self.tokens.copy_(tokens)
            self._embedded[:, 0] = self._dynamics.embed_tokens(self.tokens[:, -1])
            self.show(to_8_bits(self._paint(self.frames, self.actions, self.tokens)))


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
        workspace: of these networks and B, which no other dream uses, in place of `greedy`; None is a new one.

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
        tokenizer: TransitionTokenizer,
        dynamics: Dynamics,
        frames: Tensor,
        actions: Tensor,
        tokens: Tensor,
        *,
        generator: torch.Generator | None = None,
        greedy: bool = False,
        keep: int = 1,
        workspace: Workspace | None = None,
    ) -> None:
        _check(frames, actions, tokens, dynamics.config.max_blocks)
        self._work = workspace or Workspace(tokenizer, dynamics, len(frames), greedy=greedy)
        blocks = dynamics.config.dream_blocks or dynamics.config.max_blocks
        self._most = (blocks - 1) * TOKENS_PER_BLOCK  # tokens read, at which a step needs room
        keep = max(1, min(keep, blocks - 1))  # a step must fit behind them
        self._paint: Painter = tokenizer.painter(frames, actions, tokens, keep=keep)
        self._work.begin(self, self._paint)
        self._generator, self.cache = generator, self._work.cache
        self._past = deque(frames.unbind(1), maxlen=keep)  # (B, 3, S, S) each, the present frame last
        self._between = deque(zip(actions.unbind(1), tokens.unbind(1), strict=True), maxlen=keep - 1)
        self.frames, self.tokens = frames[:, -1], None if tokens.shape[1] == 0 else tokens[:, -1]
        self.view = view_of(self.frames)
        self._work.read(frames, actions, tokens)

    def step(self, actions: Tensor, *, next_view: bool = True) -> Outcome:
        """Imagine what actions (B,) int64 lead to.

        Where less than a block and a position is left, all but the last `keep` frames are forgotten first. An imagined
        end stops nothing. Without `next_view` only reward and end are imagined, in one pass, and the dream is over.
        """
        work = self._work
        self._make_room()
        work.step(actions, self._generator, next_view=next_view)
        rewards, ends = work.rewards.clone(), work.ends.clone()  # the next step writes there
        if not next_view:
            return Outcome(rewards, ends, None)
        self.frames, self.tokens = work.frames.clone(), work.tokens.clone()
        self.view = view_of(self.frames)
        self._past.append(self.frames)
        self._between.append((actions, self.tokens))
        return Outcome(rewards, ends, self.view)

    def foretell(self, actions: Tensor) -> Forecast:
        """What is expected of actions (B,) int64; the dream stays as it is, and a `step` under them does as without."""
        self._make_room()
        return self._work.foretell(actions)

    def save(self) -> SavedDream:
        """All that `restore` needs, but for the generator's state, which whoever handed it in has to keep."""
        past, between = tuple(self._past), tuple(self._between)
        return SavedDream(self.cache.save(), self._work.save(), self._paint.save(), past, between, self.tokens)

    def restore(self, saved: SavedDream) -> None:
        """Go back to where this dream was saved; the same actions and draws then lead to the same views."""
        self.cache.restore(saved.read)
        self._past, self._between = deque(saved.past, self._past.maxlen), deque(saved.between, self._between.maxlen)
        self.tokens, self.frames = saved.tokens, saved.past[-1]
        self._work.restore(self.frames, saved.unread)
        self._paint.restore(saved.painted)
        self.view = view_of(self.frames)

    def _make_room(self) -> None:
        """Forget all but the last `keep` frames where less than a block and a position is left."""
        if self.cache.length >= self._most:
            self._forget()

    def _forget(self) -> None:
        """Empty the cache, read what is kept but the present frame, and leave that to the next pass."""
        past = torch.stack(list(self._past), 1)[:, : len(self._between)]  # (B, C, ...), maybe none
        actions = torch.stack([*(a for a, _ in self._between), self._work.actions], 1)[:, :-1]
        tokens = torch.stack([*(t for _, t in self._between), self._work.tokens], 1)[:, :-1]
        self._work.read_but_the_present(past, actions, tokens)


def imagine_step(
    dynamics: Dynamics, cache: KVCache, unread: Tensor, actions: Tensor, draw: Draw, *, next_frame: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Imagine one step behind what the cache holds, and append it there but for its last token.

    Hot path: static shapes, no allocation that grows, no waiting for the device.

    Args:
        dynamics: in eval mode, without gradients.
        cache: with room for what is unread and four tokens more (one without `next_frame`).
        unread: (B, n, E), n from 0 on, embeddings since what the cache holds, up to the present frame.
        actions: (B,) int64 chosen on that frame.
        draw: from logits to classes; called for the reward (where that is a sign), the end, and each token.
        next_frame: whether its tokens are wanted.

    Returns:
        rewards (B,) float32, ends (B,) bool, and tokens (B, 4) or None.
    """
    inputs = torch.cat([unread, dynamics.embed_actions(actions[:, None])], 1)
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
