"""An agent's policy in real environments: frames in, actions out, memory kept between steps.

Source: fact sheet of IRIS, sections 5 and 8. One epsilon draw a step replaces the actions of all environments, unless
each has draws of its own.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor


class Actor:
    """The policy of `num_envs` environments.

    Args:
        agent: in eval mode.
        num_envs: E.
        temperature: divides the logits before sampling.
        epsilon: chance that a step's actions are uniform random instead.
        generators: CPU generators of the draws: one for all environments, or one each.
    """

    def __init__(
        self, agent: Any, num_envs: int, *, temperature: float, epsilon: float, generators: list[torch.Generator]
    ) -> None:
        self._agent, self._num_envs = agent, num_envs
        self._temperature, self._epsilon = temperature, epsilon
        self._generators = generators
        self._device = next(agent.parameters()).device
        self.memory: Any = None  # None until the first step, then what the policy carries along
        # What tells the policy what the dynamics thinks, of agents whose policy may see that.
        self._thoughts: Any = agent.thoughts(num_envs) if hasattr(agent, "thoughts") else None
        self._rows = np.arange(num_envs)  # environments that it acted in last

    @property
    def burn_in_steps(self) -> int:
        """Steps before the present one that `burn_in` has a use for."""
        return self._thoughts.steps if self._thoughts else self._agent.config.actor_critic.burn_in

    @torch.no_grad()
    def burn_in(self, frames: np.ndarray, mask: np.ndarray, actions: np.ndarray, rewards: np.ndarray) -> None:
        """Fill the memory from the steps before.

        Args:
            frames: (E, T, 64, 64, 3) uint8, padding on the left.
            mask: (E, T) true where real.
            actions, rewards: (E, T) taken there, and the raw rewards they gave.
        """
        seen = self._see(frames.reshape(-1, *frames.shape[2:])).unflatten(0, frames.shape[:2])  # (E, T, 3, 64, 64)
        if self._thoughts:
            for step in range(mask.shape[1]):
                rows = np.flatnonzero(mask[:, step])
                self._thoughts.view(seen[torch.from_numpy(rows).to(self._device), step], rows)
                self._thoughts.took(actions[:, step], rewards[:, step], rows)
        self.memory = self._agent.actor_critic.burn_in(seen, torch.from_numpy(mask).to(self._device))

    def took(self, actions: np.ndarray, rewards: np.ndarray) -> None:
        """Be told what was done (E,) where it acted last, and what that earned (E,), before it acts or forgets."""
        if self._thoughts:
            self._thoughts.took(actions, rewards, self._rows)

    def forget(self, which: np.ndarray) -> None:
        """Zero the memory of environments that start anew: (E,) bool."""
        if self._thoughts:
            self._thoughts.forget(which)
        if self.memory is not None and which.any():
            keep = torch.from_numpy(~which).to(self._device, torch.float32)[:, None]
            self.memory = type(self.memory)(*(part * keep for part in self.memory))

    @torch.no_grad()
    def act(self, frames: np.ndarray, active: np.ndarray | None = None) -> np.ndarray:
        """Actions (E,) int64 for frames (E, 64, 64, 3) uint8; only rows of `active` (E,) are computed, others get 0."""
        rows = np.arange(self._num_envs) if active is None else np.flatnonzero(active)
        index = torch.from_numpy(rows).to(self._device)
        memory = None if self.memory is None else type(self.memory)(*(part[index] for part in self.memory))
        views, self._rows = self._see(frames[rows]), rows
        output = self._agent.actor_critic(self._thoughts.view(views, rows) if self._thoughts else views, memory)
        if self.memory is None:
            self.memory = type(output.memory)(
                *(torch.zeros(self._num_envs, *part.shape[1:], device=self._device) for part in output.memory)
            )
        self.memory = type(self.memory)(
            *(part.index_copy(0, index, new) for part, new in zip(self.memory, output.memory, strict=True))
        )
        probabilities = torch.softmax(output.logits_actions.float().cpu() / self._temperature, dim=-1)  # (rows, A)
        actions = np.zeros(self._num_envs, dtype=np.int64)
        actions[rows] = self._sample(probabilities, rows).numpy()
        return self._explore(actions, rows)

    def _see(self, frames: np.ndarray) -> Tensor:
        return self._agent.see(torch.from_numpy(frames).to(self._device).permute(0, 3, 1, 2))

    def _sample(self, probabilities: Tensor, rows: np.ndarray) -> Tensor:
        if len(self._generators) == 1:
            noise = torch.empty_like(probabilities).exponential_(generator=self._generators[0])
        else:
            noise = torch.stack(
                [torch.empty(probabilities.shape[1]).exponential_(generator=self._generators[row]) for row in rows]
            )
        return (probabilities / noise).argmax(-1)

    def _explore(self, actions: np.ndarray, rows: np.ndarray) -> np.ndarray:
        if self._epsilon <= 0:
            return actions
        together = len(self._generators) == 1
        draws = [(slice(None), self._generators[0])] if together else [(row, self._generators[row]) for row in rows]
        for which, generator in draws:
            if torch.rand((), generator=generator).item() < self._epsilon:
                shape = actions[which].shape
                actions[which] = torch.randint(self._agent.num_actions, shape, generator=generator).numpy()
        return actions
