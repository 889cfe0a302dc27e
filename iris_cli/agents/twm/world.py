"""The world of TWM, acted in: the dynamics imagines latents, and the policy looks at them as they are.

Source: fact sheet of TWM, sections 2.4 and 5. Latents are drawn; reward and discount are what is expected. An imagined
episode counts as ended once the product of its discounts is small; then another one begins, from a real observation.
One step is one pass, and it does not wait for the device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_cli.agents.twm.dynamics import Dynamics
from iris_cli.errors import ShapeError
from iris_cli.learn.world import Forecast, Outcome
from iris_cli.nn.categorical import draw_one_hot, most_probable

Draw = Callable[[Tensor], Tensor]  # logits (B, K, C) -> latents (B, K * C)


@dataclass(frozen=True)
class SavedDream:
    """Where a dream was; `TwmDream.restore` takes it back there."""

    past: tuple[Tensor, Tensor]
    latents: Tensor
    hidden: Tensor | None
    reward: Tensor
    end: Tensor
    chance: Tensor
    restarts: Tensor


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
    ) -> None:
        assert not dynamics.training
        _check(latents, actions, rewards, ends)
        self._dynamics, self._fresh, self._restart_below = dynamics, fresh, restart_below
        self._draw: Draw = most_probable if greedy else partial(draw_one_hot, generator=generator)
        self._shows_hidden = shows_hidden
        self.latents = latents[:, -1]
        self.hidden: Tensor | None = None
        steps = latents.shape[1] - 1
        self.past = dynamics.new_past(len(latents), chunk=max(steps, 1))
        self._reward, self._end = rewards[:, -1:], ends[:, -1:]  # (B, 1) after the last step read; (B, 0) if none was
        if steps:
            with torch.no_grad():
                thoughts = dynamics.extend(self.past, latents[:, :-1], actions, rewards[:, :-1], ends[:, :-1])
            self.hidden = thoughts[:, -1]
        self._chance = torch.ones_like(latents[:, 0, 0])  # (B,) product of discounts since the episode began
        self._restarts = torch.zeros((), dtype=torch.int64, device=latents.device)  # how many fresh latents were used

    @property
    def view(self) -> Tensor:
        """(B, Z) the present latents, or (B, Z + E) with the thoughts before them, zeros where an episode begins."""
        if not self._shows_hidden:
            return self.latents
        if self.hidden is None:
            return F.pad(self.latents, (0, self._dynamics.config.width))
        return torch.cat([self.latents, self.hidden * ~self._end], 1)

    @property
    def tokens(self) -> Tensor:
        """(B, K) int64, the class of each categorical of the present latents."""
        return self.latents.unflatten(1, self._dynamics.latent_shape).argmax(-1)

    @torch.no_grad()
    def step(self, actions: Tensor, *, next_view: bool = True) -> Outcome:
        """Imagine what actions (B,) int64 lead to.

        Hot path: static shapes, no waiting for the device. Without `next_view` the dream is over.
        """
        thoughts = self._dynamics.extend(self.past, self.latents[:, None], actions[:, None], self._reward, self._end)
        predicted = self._dynamics.predict(thoughts)
        rewards, discounts = predicted.rewards[:, 0], predicted.logits_discounts[:, 0].sigmoid()
        chance = self._chance * discounts
        ends = chance < self._restart_below
        self.hidden = thoughts[:, 0]
        if not next_view:
            return Outcome(rewards, ends, None, discounts)
        latents = self._draw(predicted.logits_latents[:, 0])
        self._reward, self._chance, self._end = rewards[:, None], chance, torch.zeros_like(ends[:, None])
        if self._fresh is not None:
            order = self._restarts + ends.long().cumsum(0) - 1  # which fresh latent each ended row would get
            latents = torch.where(ends[:, None], self._fresh[order.remainder(len(self._fresh))], latents)
            self._restarts = self._restarts + ends.sum()
            self._chance, self._end = torch.where(ends, 1.0, chance), ends[:, None]
        self.latents = latents
        return Outcome(rewards, ends, self.view, discounts)

    @torch.no_grad()
    def foretell(self, actions: Tensor) -> Forecast:
        """What is expected of actions (B,) int64; the dream stays as it is, and a `step` under them does as without.

        The chance of an end is what the expected discount lacks of gamma, as a share.
        """
        now = self.latents[:, None], actions[:, None], self._reward, self._end
        predicted = self._dynamics.predict(self._dynamics.glance(self.past, *now))
        goes_on = predicted.logits_discounts[:, 0].sigmoid() / self._dynamics.config.gamma
        return Forecast(predicted.rewards[:, 0], (1 - goes_on).clamp(0, 1), None)

    def save(self) -> SavedDream:
        """All that `restore` needs, but for the generator's state, which whoever handed it in has to keep."""
        return SavedDream(
            self.past.save(), self.latents, self.hidden, self._reward, self._end, self._chance, self._restarts
        )

    def restore(self, saved: SavedDream) -> None:
        """Go back to where this dream was saved; the same actions and draws then lead to the same views."""
        self.past.restore(saved.past)
        self.latents, self.hidden = saved.latents, saved.hidden
        self._reward, self._end = saved.reward, saved.end
        self._chance, self._restarts = saved.chance, saved.restarts


def _check(latents: Tensor, actions: Tensor, rewards: Tensor, ends: Tensor) -> None:
    if latents.dim() != 3 or latents.shape[1] < 1:
        raise ShapeError(f"latents must have shape (B, C, Z) with C >= 1. Got {tuple(latents.shape)}")
    expected = (len(latents), latents.shape[1] - 1)
    for name, values in (("actions", actions), ("rewards", rewards), ("ends", ends)):
        if values.shape != expected:
            raise ShapeError(f"{name} must have shape (B, C - 1)={expected}. Got {tuple(values.shape)}")
