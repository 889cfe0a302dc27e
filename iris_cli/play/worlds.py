"""The dream that a person can be in, beside `envs/rewindable.py`, the real game: it steps, is saved, and goes back.

It is of any agent: their dreams can be decoded, saved, and asked what they expect.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[np.uint8]  # (64, 64, 3)


@dataclass(frozen=True)
class Expected:
    """What the world model expected of a step before it drew what came of it."""

    reward: float
    end: float  # chance
    signs: tuple[float, ...] | None  # chances of a reward of -1, 0, 1; None where it knows more than signs


@dataclass(frozen=True)
class DreamStep:
    """What an imagined step showed and paid."""

    picture: Pixels
    tokens: tuple[int, ...] | None
    reward: float
    end: bool
    expected: Expected


@dataclass(frozen=True)
class SavedDream:
    """Where a dream was, its draws included."""

    dream: Any
    draws: Tensor


class DreamWorld:
    """One imagined episode.

    Args:
        agent: whose world it is, in eval mode.
        frames: (C, 64, 64, 3) uint8, or 4 for grey stacks, the last real ones; the dream begins at the last of them.
        actions: (C - 1) actions taken between them.
        rewards: (C - 1) after those, raw.
        seed: of all draws.
    """

    def __init__(
        self, agent: Any, frames: Pixels, actions: Sequence[int], rewards: Sequence[float], *, seed: int
    ) -> None:
        self._agent = agent
        self._device = next(agent.parameters()).device
        self._draws = torch.Generator(device=self._device).manual_seed(seed)
        images = torch.from_numpy(frames.copy()).to(self._device).permute(0, 3, 1, 2)[None]  # (1, C, channels, 64, 64)
        before = torch.tensor([list(actions)], dtype=torch.int64, device=self._device)
        earned = torch.tensor([list(rewards)], dtype=torch.float32, device=self._device)
        self._dream = agent.begin_dream(images, None, before, self._draws, rewards=earned, keep=len(frames))

    @property
    def view(self) -> Tensor:
        """(1, ...) what the policy looks at."""
        return self._dream.view

    @property
    def picture(self) -> Pixels:
        """The same for people."""
        return pixels(self._agent.picture(self.view))[0]

    @property
    def tokens(self) -> tuple[int, ...] | None:
        """Of the present frame or latent, or of the transition that led to it; None before the first transition."""
        return None if self._dream.tokens is None else tuple(self._dream.tokens[0].tolist())

    def step(self, action: int) -> DreamStep:
        """Imagine what an action leads to. An imagined end stops nothing."""
        actions = torch.tensor([action], device=self._device)
        forecast = self._dream.foretell(actions)
        outcome = self._dream.step(actions)
        signs = None if forecast.signs is None else tuple(forecast.signs[0].tolist())
        expected = Expected(float(forecast.rewards[0]), float(forecast.ends[0]), signs)
        reward = round(float(outcome.rewards[0]), 2)  # an expected one is never quite zero
        return DreamStep(self.picture, self.tokens, reward, bool(outcome.over[0]), expected)

    def save(self) -> SavedDream:
        """All that `restore` needs."""
        return SavedDream(self._dream.save(), self._draws.get_state())

    def restore(self, saved: SavedDream) -> None:
        """Go back to where this dream was saved."""
        self._dream.restore(saved.dream)
        self._draws.set_state(saved.draws)


def pixels(views: Tensor) -> Pixels:
    """(N, 3, 64, 64) in [0, 1] -> (N, 64, 64, 3) uint8."""
    return (views.detach() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def picture_of(frame: NDArray[np.uint8]) -> Pixels:
    """A frame for people: what has colours stays, of a stack of grey ones the newest."""
    return frame if frame.shape[2] == 3 else frame[:, :, -1:].repeat(3, 2)
