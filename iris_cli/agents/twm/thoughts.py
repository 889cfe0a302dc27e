"""What the dynamics thinks while a policy that sees it too acts in real environments: the paper's ablation on [z, h].

A thought is what the dynamics holds after a latent and the action chosen on it; a policy sees the thought after the
step before, and zeros where an episode begins. In dreams the dream itself shows them (world.py).
"""

import numpy as np
import torch
from torch import Tensor

from iris_cli.agents.twm.dynamics import Dynamics
from iris_cli.agents.twm.learning import learned_rewards


class Thoughts:
    """The last steps of E environments, from which the dynamics thinks anew at each step.

    Args:
        dynamics: in eval mode.
        num_envs: E.

    Attributes:
        steps: of each environment that are kept: as many as a token of the dynamics may look at.
    """

    def __init__(self, dynamics: Dynamics, num_envs: int) -> None:
        device = dynamics.transformer.u_bias.device
        self._dynamics, self.steps = dynamics, dynamics.config.max_blocks
        self._latents = torch.zeros(num_envs, self.steps, dynamics.latent_width, device=device)
        self._actions = torch.zeros(num_envs, self.steps, dtype=torch.int64, device=device)
        self._rewards = torch.zeros(num_envs, self.steps, device=device)  # as learned
        self._known = torch.zeros(num_envs, dtype=torch.int64, device=device)  # steps, the first of the columns
        self._present = torch.zeros(num_envs, dynamics.latent_width, device=device)

    @torch.no_grad()
    def view(self, latents: Tensor, rows: np.ndarray) -> Tensor:
        """Views (R, Z + E) of latents (R, Z) of some environments, and of the thoughts before them."""
        index = torch.from_numpy(rows).to(latents.device)
        self._present[index] = latents
        rewards = self._rewards[index, :-1]
        hidden = self._dynamics(
            self._latents[index], self._actions[index], rewards, torch.zeros_like(rewards, dtype=torch.bool)
        ).hidden  # (R, steps, E); what is not known lies behind, where nothing looks at it
        known = self._known[index]
        last = hidden[torch.arange(len(rows), device=index.device), (known - 1).clamp(min=0)]
        return torch.cat([latents, last * (known > 0)[:, None]], 1)

    def took(self, actions: np.ndarray, rewards: np.ndarray, rows: np.ndarray) -> None:
        """Note the actions (E,) taken on the latents last seen, and the raw rewards (E,), of some environments."""
        for row in rows.tolist():
            if self._known[row] == self.steps:
                for kept in (self._latents, self._actions, self._rewards):
                    kept[row, :-1] = kept[row, 1:].clone()
                self._known[row] -= 1
            place = int(self._known[row])
            self._latents[row, place] = self._present[row]
            self._actions[row, place] = int(actions[row])
            self._rewards[row, place] = learned_rewards(torch.tensor(float(rewards[row])))
            self._known[row] += 1

    def forget(self, which: np.ndarray) -> None:
        """Begin anew in some environments, (E,) bool."""
        self._known[torch.from_numpy(which).to(self._known.device)] = 0


@torch.no_grad()
def views_along(dynamics: Dynamics, latents: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
    """Views (T, Z + E) of an episode's latents (T, Z), given its actions (T,) and raw rewards (T,)."""
    hidden, chunk = [], dynamics.config.max_blocks
    past, told = dynamics.new_past(1, chunk=chunk), learned_rewards(rewards)[None]
    for start in range(0, len(latents) - 1, chunk):
        steps = slice(start, min(start + chunk, len(latents) - 1))
        before = told[:, max(start - 1, 0) : steps.stop - 1]
        hidden.append(
            dynamics.extend(
                past, latents[None, steps], actions[None, steps], before, torch.zeros_like(before, dtype=torch.bool)
            )[0]
        )
    first = latents.new_zeros(1, dynamics.config.width)
    return torch.cat([latents, torch.cat([first, *hidden])], 1)
