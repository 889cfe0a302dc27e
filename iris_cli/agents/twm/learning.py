"""What TWM's world learns from windows, and how far it is off: tokenizer and dynamics together, or the dynamics alone.

Source: fact sheet of TWM, sections 4 and 6. The two losses share no graph: the dynamics reads draws without gradient,
and its predictions are targets of the tokenizer without gradient. Both are computed before either optimizer steps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from iris_cli.agents.twm.dynamics import Dynamics, DynamicsOutput
from iris_cli.agents.twm.tokenizer import Tokenizer
from iris_cli.errors import ShapeError
from iris_cli.learn.losses import Losses
from iris_cli.replay.windows import Windows

Draw = Callable[[Tensor], Tensor]  # logits (..., K, C) -> latents (..., K * C)


@dataclass(frozen=True)
class WorldLosses:
    """Of one batch of windows.

    Attributes:
        tokenizer: reconstruction, entropy, consistency.
        dynamics: latents, rewards, discounts.
        latents: (B, T+1, Z) as drawn, without gradient; dreams begin from them.
    """

    tokenizer: Losses
    dynamics: Losses
    latents: Tensor

    @property
    def both(self) -> Losses:
        """Their sum, with the parts of both; what each is in all is called loss_tokenizer and loss_dynamics."""
        totals = {"loss_tokenizer": self.tokenizer.total.detach(), "loss_dynamics": self.dynamics.total.detach()}
        return Losses(self.tokenizer.total + self.dynamics.total, totals | self.tokenizer.parts | self.dynamics.parts)


def world_losses(tokenizer: Tokenizer, dynamics: Dynamics, windows: Windows, draw: Draw) -> WorldLosses:
    """The losses of tokenizer and dynamics on windows of T steps and one before them.

    The first step is context: it is neither reconstructed nor are its predictions scored, except as what the tokenizer
    should be consistent with.

    Args:
        tokenizer, dynamics: in training mode.
        windows: with stacks (B, T+2, 4, 64, 64).
        draw: latents from logits, `draw_one_hot`.

    Raises:
        ShapeError: if the windows carry no stacks.
    """
    stacks = stacks_of(windows)
    learned = stacks[:, 1:-1]  # (B, T, 4, 64, 64)
    with torch.no_grad():
        around = tokenizer(stacks[:, [0, -1]])  # (B, 2, K, C)
    logits = tokenizer(learned)  # (B, T, K, C)
    latents = draw(torch.cat([around[:, :1], logits], 1).detach())  # (B, T+1, Z)
    output = dynamics(latents, windows.actions, windows.rewards[:, :-1], windows.ends[:, :-1])
    return WorldLosses(
        tokenizer=tokenizer.loss(learned, logits, latents[:, 1:], predicted=output.logits_latents[:, :-1]),
        dynamics=_dynamics_loss(dynamics, output, windows, torch.cat([logits[:, 1:], around[:, 1:]], 1)),
        latents=latents,
    )


def dynamics_loss(
    tokenizer: Tokenizer, dynamics: Dynamics, windows: Windows, draw: Draw, among: Windows | None = None
) -> Losses:
    """The loss of the dynamics alone, behind a tokenizer that stays as it is; arguments as in `world_losses`.

    `among` is the batch that the windows are a share of (`share_of_mean`); None: they are all of it.
    """
    logits = encoded(tokenizer, stacks_of(windows))  # (B, T+2, K, C)
    output = dynamics(draw(logits[:, :-1]), windows.actions, windows.rewards[:, :-1], windows.ends[:, :-1])
    return _dynamics_loss(dynamics, output, windows, logits[:, 2:], among)


def encoded(tokenizer: Tokenizer, stacks: Tensor) -> Tensor:
    """Stacks (B, T, 4, 64, 64) uint8 -> normalised logits (B, T, K, C). No gradient."""
    return tokenizer.encode(stacks.flatten(0, 1)).unflatten(0, stacks.shape[:2])


def stacks_of(windows: Windows) -> Tensor:
    """(B, T+2, 4, 64, 64) uint8.

    Raises:
        ShapeError: if the windows carry none.
    """
    if windows.stacks is None:
        raise ShapeError("windows must carry stacks to learn from. Got none")
    return windows.stacks


def _dynamics_loss(
    dynamics: Dynamics, output: DynamicsOutput, windows: Windows, targets: Tensor, among: Windows | None = None
) -> Losses:
    """Of all steps but the context, given the logits (B, T, K, C) of what followed them."""
    return dynamics.loss(
        output.at(slice(1, None)),
        targets=targets,
        rewards=windows.rewards[:, 1:],
        terminations=windows.terminations[:, 1:],
        ends=windows.ends[:, 1:],
        among=None if among is None else among.ends[:, 1:],
    )


def learned_rewards(raw: Tensor) -> Tensor:
    """Rewards as TWM reads and learns them everywhere but in scores: their hyperbolic tangent."""
    return raw.tanh()
