"""What a joint update of TWM's world learns from, and how far it is off.

Source: fact sheet of TWM, section 4. The two losses share no graph: the dynamics reads draws without gradient, and its
predictions are targets of the tokenizer without gradient. Both are computed before either optimizer steps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from iris_cli.agents.twm.agent import Agent
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


def world_losses(agent: Agent, windows: Windows, draw: Draw) -> WorldLosses:
    """The losses of tokenizer and dynamics on windows of T steps and one before them.

    The first step is context: it is neither reconstructed nor are its predictions scored, except as what the tokenizer
    should be consistent with.

    Args:
        agent: in training mode.
        windows: with stacks (B, T+2, 4, 64, 64).
        draw: latents from logits, `draw_one_hot`.

    Raises:
        ShapeError: if the windows carry no stacks.
    """
    if windows.stacks is None:
        raise ShapeError("windows must carry stacks to learn from. Got none")
    learned = windows.stacks[:, 1:-1]  # (B, T, 4, 64, 64)
    with torch.no_grad():
        around = agent.tokenizer(windows.stacks[:, [0, -1]])  # (B, 2, K, C)
    logits = agent.tokenizer(learned)  # (B, T, K, C)
    latents = draw(torch.cat([around[:, :1], logits], 1).detach())  # (B, T+1, Z)
    output = agent.dynamics(latents, windows.actions, windows.rewards[:, :-1], windows.ends[:, :-1])
    return WorldLosses(
        tokenizer=agent.tokenizer.loss(learned, logits, latents[:, 1:], predicted=output.logits_latents[:, :-1]),
        dynamics=agent.dynamics.loss(
            output.at(slice(1, None)),
            targets=torch.cat([logits[:, 1:], around[:, 1:]], 1),
            rewards=windows.rewards[:, 1:],
            terminations=windows.terminations[:, 1:],
            ends=windows.ends[:, 1:],
        ),
        latents=latents,
    )


def learned_rewards(raw: Tensor) -> Tensor:
    """Rewards as TWM reads and learns them everywhere but in scores: their hyperbolic tangent."""
    return raw.tanh()
