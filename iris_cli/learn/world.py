"""What learning in imagination needs of a world and of a policy. Each agent has its own; these are their shapes."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from iris_cli.replay.segments import Segments


@dataclass(frozen=True)
class Outcome:
    """What an imagined step led to.

    Attributes:
        rewards: (B,) float32, as the dynamics knows them (a sign, in Atari).
        ends: (B,) bool, whether the episode ended with this step. The dream goes on all the same.
        view: (B, ...) what the policy looks at next, or None where it was not asked for.
        discounts: (B,) float32 in [0, 1], if the dynamics knows more than `ends` about whether the episode goes on.
    """

    rewards: Tensor
    ends: Tensor
    view: Tensor | None
    discounts: Tensor | None = None

    @property
    def over(self) -> Tensor:
        """(B,) bool, whether the episode more probably ended with this step than went on, for those who look on.

        Where discounts are expected, `ends` says something else: that the chance to have come this far is used up.
        """
        return self.ends if self.discounts is None else self.discounts < 0.5


@dataclass(frozen=True)
class Forecast:
    """What a dream expects of a step, before it draws what comes of it.

    Attributes:
        rewards: (B,) float32, expected.
        ends: (B,) float32 in [0, 1], the chance that the episode ends.
        signs: (B, 3) chances of a reward of -1, 0 and 1, or None where the dynamics knows more than signs.
    """

    rewards: Tensor
    ends: Tensor
    signs: Tensor | None


class Dream(Protocol):
    """B imagined episodes on their way: begun from real steps, short-lived, without gradients."""

    @property
    def view(self) -> Tensor:
        """(B, ...) what the policy looks at now."""

    def step(self, actions: Tensor, *, next_view: bool = True) -> Outcome:
        """Imagine one step under actions (B,) int64. Without `next_view` it is the dream's last."""


class PolicyOutput(Protocol):
    """A policy's answer to a view."""

    @property
    def logits_actions(self) -> Tensor:
        """(B, A)"""

    @property
    def values(self) -> Tensor:
        """(B,) discounted return that it expects."""

    @property
    def logits_values(self) -> Tensor | None:
        """(B, buckets) of the distribution that the values are the means of, or None where values are scalars."""

    @property
    def memory(self) -> Any:
        """What to hand in with the next view."""


class Policy(Protocol):
    """Maps a view and the memory of those before (None: none) to logits, a value and the new memory."""

    def __call__(self, views: Tensor, memory: Any) -> PolicyOutput: ...


class World(Protocol):
    """An agent as the training of its actor-critic sees it."""

    def actor_critic_start(self, segments: Segments, generator: torch.Generator | None = None) -> tuple[Any, Dream]:
        """The policy's memory after a segment's first steps, and a dream that begins at its last."""
