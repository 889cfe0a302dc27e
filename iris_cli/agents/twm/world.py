"""The world of TWM, acted in: the dynamics imagines latents, and the policy looks at them as they are.

Source: fact sheet of TWM, sections 2.4 and 5. Latents are drawn; reward and discount are what is expected. An imagined
episode counts as ended once the product of its discounts is small; then another one begins, from a real observation.
One step is one pass, and it does not wait for the device.
"""

import math
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_cli.agents.twm.dynamics import Dynamics
from iris_cli.errors import ShapeError
from iris_cli.learn.world import Forecast, Outcome
from iris_cli.nn.categorical import draw_one_hot, most_probable
from iris_cli.nn.graphs import Graphs, identity


@dataclass(frozen=True)
class SavedDream:
    """Where a dream was; `TwmDream.restore` takes it back there."""

    past: tuple[Tensor, Tensor]
    hidden: Tensor | None
    state: tuple[Tensor, ...]


class Workspace:
    """What the dreams of B rows are worked out in, one dream after another: memory that never moves.

    Every piece of work reads and writes only the dynamics and the tensors below, so that on CUDA it becomes a graph:
    one for each length that the cache has when a step begins.

    Args:
        dynamics: in eval mode.
        batch: B.
        context: C, steps that dreams begin with.
        fresh: P, how many real latents there are for imagined episodes that begin anew; 0: they go on all the same.
        restart_below: product of discounts at which an imagined episode counts as ended.
        greedy: take the most probable latent instead of drawing.
        capture: whether to make graphs; it pays for dreams that are begun again and again.

    Attributes:
        past: what the dynamics has read.
        latents: (B, Z) the present ones; `hidden` (B, E) what the dynamics thought after the last action.
        reward, end: (B, 1) float32 and bool after the last step read, whether an episode ended with it.
        chance: (B,) product of discounts since the episode began.
        restarts: () int64, how many fresh latents were used.
        fresh: (P, Z).
        actions: (B,) int64 of the step to be imagined.
        rewards, discounts, ends: (B,) that it led to.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        batch: int,
        *,
        context: int = 2,
        fresh: int = 0,
        restart_below: float = 0.1,
        greedy: bool = False,
        capture: bool = False,
    ) -> None:
        self._dynamics, self._restart_below, self._greedy = dynamics, restart_below, greedy
        self._identity = identity(dynamics)
        self._dream: weakref.ref[TwmDream] | None = None
        self._lengths: dict[Hashable, int] = {}  # of the cache, after each piece of work
        self.past = dynamics.new_past(batch, chunk=max(context - 1, 1))
        device, width = self.past.episodes.device, math.prod(dynamics.latent_shape)
        self._graphs = Graphs(device, capture=capture)
        self._latents = torch.zeros(batch, context, width, device=device)
        self._actions = torch.zeros(batch, context - 1, dtype=torch.int64, device=device)
        self._rewards = torch.zeros(batch, context - 1, device=device)
        self._ends = torch.zeros(batch, context - 1, dtype=torch.bool, device=device)
        self.fresh = torch.zeros(fresh, width, device=device)
        self.latents = torch.zeros(batch, width, device=device)
        self.hidden = torch.zeros(batch, dynamics.config.width, device=device)
        self.reward = torch.zeros(batch, 1, device=device)
        self.end = torch.zeros(batch, 1, dtype=torch.bool, device=device)
        self.chance = torch.ones(batch, device=device)
        self.restarts = torch.zeros((), dtype=torch.int64, device=device)
        self.actions = torch.zeros(batch, dtype=torch.int64, device=device)
        self.rewards, self.discounts = torch.zeros(2, batch, device=device)
        self.ends = torch.zeros(batch, dtype=torch.bool, device=device)

    def serves(self, dynamics: Dynamics, batch: int, fresh: int) -> bool:
        """Whether a dream of B rows in this network, as it is now, can be worked out here."""
        busy = self._dream is not None and self._dream() is not None
        fits = len(self.actions) == batch and len(self.fresh) == fresh
        return not busy and fits and self._identity == identity(dynamics)

    def begin(self, dream: "TwmDream") -> None:
        """Be this dream's, for as long as it lives."""
        assert not self._dynamics.training
        self._dream = weakref.ref(dream)

    @torch.no_grad()
    def read(self, latents: Tensor, actions: Tensor, rewards: Tensor, ends: Tensor, fresh: Tensor | None) -> None:
        """Forget everything, and read the steps of (B, C, Z) but the last, which becomes the present one."""
        self._latents.copy_(latents)
        self._actions.copy_(actions)
        self._rewards.copy_(rewards)
        self._ends.copy_(ends)
        if fresh is not None:
            self.fresh.copy_(fresh)
        self._run("read", self._read)

    @torch.no_grad()
    def step(self, actions: Tensor, generator: torch.Generator | None, *, next_view: bool) -> None:
        """Imagine what actions (B,) lead to."""
        self.actions.copy_(actions)
        length = self.past.cache.length
        self._run(("step", length, next_view), lambda: self._step(length, next_view=next_view), generator)

    @torch.no_grad()
    def foretell(self, actions: Tensor) -> Forecast:
        """What is expected of actions (B,); the state stays as it is."""
        predicted = self._dynamics.predict(self._dynamics.glance(self.past, *self._now(actions)))
        goes_on = predicted.logits_discounts[:, 0].sigmoid() / self._dynamics.config.gamma
        return Forecast(predicted.rewards[:, 0], (1 - goes_on).clamp(0, 1), None)

    def state(self) -> tuple[Tensor, ...]:
        """Where the dream is, besides the past: tensors that a step writes to."""
        return self.latents, self.hidden, self.reward, self.end, self.chance, self.restarts

    def _run(self, name: Hashable, work: Callable[[], None], generator: torch.Generator | None = None) -> None:
        def noted() -> None:
            work()
            self._lengths[name] = self.past.cache.length

        self._graphs.run(name, noted, generator)
        self.past.cache.length = self._lengths[name]  # a replay moves no number of ours

    def _read(self) -> None:
        self.past.cache.reset()
        self.chance.fill_(1)
        self.restarts.zero_()
        self.latents.copy_(self._latents[:, -1])
        if self._actions.shape[1]:
            told = self._rewards[:, :-1], self._ends[:, :-1]
            thoughts = self._dynamics.extend(self.past, self._latents[:, :-1], self._actions, *told)
            self.hidden.copy_(thoughts[:, -1])
            self.reward.copy_(self._rewards[:, -1:])
            self.end.copy_(self._ends[:, -1:])

    def _now(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The present step, as the dynamics reads it; before the first of all there was no reward."""
        known = slice(0 if self.past.cache.length == 0 else 1)
        return self.latents[:, None], actions[:, None], self.reward[:, known], self.end[:, known]

    def _step(self, length: int, *, next_view: bool) -> None:
        self.past.cache.length = length
        thoughts = self._dynamics.extend(self.past, *self._now(self.actions))
        predicted = self._dynamics.predict(thoughts)
        self.hidden.copy_(thoughts[:, 0])
        self.rewards.copy_(predicted.rewards[:, 0])
        self.discounts.copy_(predicted.logits_discounts[:, 0].sigmoid())
        chance = self.chance * self.discounts
        self.ends.copy_(chance < self._restart_below)
        if next_view:
            self._move_on(predicted.logits_latents[:, 0], chance)

    def _move_on(self, logits: Tensor, chance: Tensor) -> None:
        """Draw the next latents, from (B, K, C); where an episode ended, the next one begins with a fresh latent."""
        latents = most_probable(logits) if self._greedy else draw_one_hot(logits, self._graphs.generator)
        self.reward.copy_(self.rewards[:, None])
        if not len(self.fresh):
            self.latents.copy_(latents)
            self.chance.copy_(chance)
            self.end.zero_()
            return
        ended = self.ends[:, None]
        order = self.restarts + self.ends.long().cumsum(0) - 1  # which fresh latent each ended row would get
        self.latents.copy_(torch.where(ended, self.fresh[order.remainder(len(self.fresh))], latents))
        self.restarts.add_(self.ends.sum())
        self.chance.copy_(torch.where(self.ends, 1.0, chance))
        self.end.copy_(ended)


class TwmDream:
    """B rows of imagined episodes. The dynamics must be in eval mode: dropout would spoil what it imagines.

    Args:
        dynamics: imagines.
        latents: (B, C, Z) of the last C real steps; the dream begins at the last of them. C = 2 is published.
        actions: (B, C - 1) int64 taken between them.
        rewards: (B, C - 1) float32 after those, as learned.
        ends: (B, C - 1) bool, whether an episode ended with them.
        fresh: (P, Z) latents of real observations. Where an imagined episode ends, the next one begins with the next
            of these, blind to what came before; when all are used they are taken from the start again. None: the
            episode goes on all the same, and every further step ends it too.
        restart_below: product of discounts at which an imagined episode counts as ended.
        generator: of the draws, on the latents' device; None is torch's global one.
        greedy: take the most probable latent instead.
        shows_hidden: whether views hold what the dynamics thought before, too.
        workspace: of this network, B, C and P, which no other dream uses, in place of `greedy` and `restart_below`;
            None is a new one.

    Attributes:
        latents: (B, Z) the present ones.
        hidden: (B, E) what the dynamics thought after the last action, or None before the first of all.
        past: what the dynamics has read.

    Raises:
        ShapeError: if the shapes do not agree.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        latents: Tensor,
        actions: Tensor,
        rewards: Tensor,
        ends: Tensor,
        *,
        fresh: Tensor | None = None,
        restart_below: float = 0.1,
        generator: torch.Generator | None = None,
        greedy: bool = False,
        shows_hidden: bool = False,
        workspace: Workspace | None = None,
    ) -> None:
        _check(latents, actions, rewards, ends)
        batch, context = latents.shape[:2]
        self._work = workspace or Workspace(
            dynamics, batch, context=context, fresh=0 if fresh is None else len(fresh), restart_below=restart_below,
            greedy=greedy,
        )  # fmt: skip
        self._work.begin(self)
        self._generator, self._shows_hidden, self._width = generator, shows_hidden, dynamics.config.width
        self._latent_shape, self.past = dynamics.latent_shape, self._work.past
        self._work.read(latents, actions, rewards, ends, fresh)
        self.latents = latents[:, -1]
        self.hidden = self._work.hidden.clone() if context > 1 else None

    @property
    def view(self) -> Tensor:
        """(B, Z) the present latents, or (B, Z + E) with the thoughts before them, zeros where an episode begins."""
        if not self._shows_hidden:
            return self.latents
        if self.hidden is None:
            return F.pad(self.latents, (0, self._width))
        return torch.cat([self.latents, self.hidden * ~self._work.end], 1)

    @property
    def tokens(self) -> Tensor:
        """(B, K) int64, the class of each categorical of the present latents."""
        return self.latents.unflatten(1, self._latent_shape).argmax(-1)

    def step(self, actions: Tensor, *, next_view: bool = True) -> Outcome:
        """Imagine what actions (B,) int64 lead to. Without `next_view` the dream is over."""
        work = self._work
        work.step(actions, self._generator, next_view=next_view)
        rewards, ends, discounts = work.rewards.clone(), work.ends.clone(), work.discounts.clone()
        self.hidden = work.hidden.clone()  # the next step writes there
        if not next_view:
            return Outcome(rewards, ends, None, discounts)
        self.latents = work.latents.clone()
        return Outcome(rewards, ends, self.view, discounts)

    def foretell(self, actions: Tensor) -> Forecast:
        """What is expected of actions (B,) int64; the dream stays as it is, and a `step` under them does as without.

        The chance of an end is what the expected discount lacks of gamma, as a share.
        """
        return self._work.foretell(actions)

    def save(self) -> SavedDream:
        """All that `restore` needs, but for the generator's state, which whoever handed it in has to keep."""
        return SavedDream(self.past.save(), self.hidden, tuple(tensor.clone() for tensor in self._work.state()))

    def restore(self, saved: SavedDream) -> None:
        """Go back to where this dream was saved; the same actions and draws then lead to the same views."""
        self.past.restore(saved.past)
        for tensor, kept in zip(self._work.state(), saved.state, strict=True):
            tensor.copy_(kept)
        self.latents, self.hidden = saved.state[0], saved.hidden


def _check(latents: Tensor, actions: Tensor, rewards: Tensor, ends: Tensor) -> None:
    if latents.dim() != 3 or latents.shape[1] < 1:
        raise ShapeError(f"latents must have shape (B, C, Z) with C >= 1. Got {tuple(latents.shape)}")
    expected = (len(latents), latents.shape[1] - 1)
    for name, values in (("actions", actions), ("rewards", rewards), ("ends", ends)):
        if values.shape != expected:
            raise ShapeError(f"{name} must have shape (B, C - 1)={expected}. Got {tuple(values.shape)}")
