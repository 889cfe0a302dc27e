"""The policy and value of TWM: two separate networks that look at one latent, and how they learn.

Source: fact sheet of TWM, section 5. Members are named as in the published state dict.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical

from iris_cli.agents.twm.config import ActorCriticConfig
from iris_cli.agents.twm.tokenizer import HALF_LOG_TWO_PI
from iris_cli.errors import ShapeError
from iris_cli.learn.actor_critic import Rollout, lambda_returns
from iris_cli.learn.losses import Losses
from iris_cli.nn.mlp import MLP


@dataclass(frozen=True)
class ActorCriticOutput:
    """What the actor-critic makes of views.

    Attributes:
        logits_actions: (..., A), before any temperature.
        values: (...) expected discounted return.
        memory: always empty: a view is all the policy knows.
        logits_values: None, as values are scalars.
    """

    logits_actions: Tensor
    values: Tensor
    memory: tuple[()] = ()
    logits_values: None = None


class ActorCritic(nn.Module):
    """Maps views to action logits and values: latents, or latents and thoughts side by side if it reads those.

    Args:
        config: sizes, and how it learns.
        latent_width: Z.
        hidden_width: E, of thoughts.
        num_actions: A.
    """

    def __init__(self, config: ActorCriticConfig, *, latent_width: int, hidden_width: int, num_actions: int) -> None:
        super().__init__()
        self.config = config
        self.view_width = latent_width + (hidden_width if config.reads_hidden else 0)
        self.actor_model = MLP([self.view_width, *config.actor_widths, num_actions], orthogonal=True)
        self.critic_model = MLP([self.view_width, *config.critic_widths, 1], orthogonal=True)

    def forward(self, views: Tensor, memory: tuple[()] | None = None) -> ActorCriticOutput:
        """Look at views (..., Z) or (..., Z + E) float32; there is no memory to hand in.

        Raises:
            ShapeError: for views of another width.
        """
        if views.shape[-1:] != (self.view_width,):
            raise ShapeError(f"views must have shape (..., {self.view_width}). Got {tuple(views.shape)}")
        return ActorCriticOutput(self.actor_model(views), self.critic_model(views).squeeze(-1))

    def burn_in(self, views: Tensor, mask: Tensor) -> tuple[()]:
        """The memory after views (B, T, Z): none."""
        return ()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The actor's parameters and the critic's, which learn at a rate of their own and are clipped apart."""
        critic = list(self.critic_model.parameters())
        return [
            {"name": "actor", "params": list(self.actor_model.parameters())},
            {"name": "critic", "params": critic, "lr": self.config.critic_learning_rate},
        ]

    def loss(self, rollout: Rollout, weights: Tensor) -> Losses:
        """What is learned from imagined rollouts: weighted REINFORCE with baseline, value error, the entropy's hinge.

        The entropy counts as one number, its weighted mean over the whole batch, and only below the threshold.

        Args:
            rollout: with discounts.
            weights: (B, H) from `step_weights`.

        Returns:
            Parts loss_actions, loss_values, loss_entropy (they sum up to the total), and means over the rollout:
            entropy (weighted, 1 being uniform), returns, values, rewards, ends, value_error.
        """
        assert rollout.discounts is not None
        returns = self._returns(rollout)
        policy = Categorical(logits=rollout.logits_actions, validate_args=False)
        advantages = returns - rollout.values.detach()
        entropy = (weights * policy.entropy()).mean() / math.log(rollout.logits_actions.shape[-1])
        hinge = F.relu(self.config.entropy_threshold - entropy)
        return _losses(
            rollout, returns, entropy,
            loss_actions=-(weights * policy.log_prob(rollout.actions) * advantages).mean(),
            loss_values=_value_loss(rollout.values, returns, weights),
            loss_entropy=self.config.entropy_weight * hinge,
        )  # fmt: skip

    def pretraining_loss(self, rollout: Rollout, last_logits: Tensor) -> Losses:
        """What is learned from real steps, before any dream: their values, and a policy that stays uniform.

        Args:
            rollout: of real steps, with discounts of gamma, or 0 where the episode ended for whatever reason.
            last_logits: (B, A) of the policy on the view after the last step, whose entropy counts too.

        Returns:
            Parts loss_values and loss_entropy, and means as in `loss`; nothing is weighted.
        """
        assert rollout.discounts is not None
        returns = self._returns(rollout)
        logits = torch.cat([rollout.logits_actions, last_logits[:, None]], 1)  # (B, H + 1, A)
        entropy = Categorical(logits=logits, validate_args=False).entropy().mean() / math.log(logits.shape[-1])
        return _losses(
            rollout, returns, entropy,
            loss_values=_value_loss(rollout.values, returns, torch.ones_like(returns)),
            loss_entropy=-self.config.entropy_weight * entropy,
        )  # fmt: skip

    def _returns(self, rollout: Rollout) -> Tensor:
        """(B, H) lambda-returns; their difference to the values is the published generalised advantage."""
        assert rollout.discounts is not None
        discounts = rollout.discounts * (~rollout.ends).float()
        return lambda_returns(rollout.rewards, discounts, rollout.values, rollout.bootstrap, lam=self.config.lam)


def step_weights(discounts: Tensor, ends: Tensor) -> Tensor:
    """How much each imagined step counts: the chance that its episode got there.

    Args:
        discounts: (B, H) after each step.
        ends: (B, H) bool, whether the imagined episode ended with it and another began.

    Returns:
        (B, H): the product of the discounts before a step, since its imagined episode began.
    """
    weights, now = [], torch.ones_like(discounts[:, 0])
    for t in range(discounts.shape[1]):
        weights.append(now)
        now = torch.where(ends[:, t], 1.0, now * discounts[:, t])
    return torch.stack(weights, 1)


def _value_loss(values: Tensor, returns: Tensor, weights: Tensor) -> Tensor:
    return (weights * (0.5 * (values - returns).square() + HALF_LOG_TWO_PI)).mean()


def _losses(rollout: Rollout, returns: Tensor, entropy: Tensor, **terms: Tensor) -> Losses:
    means = {
        "entropy": entropy,
        "returns": returns.mean(),
        "values": rollout.values.mean(),
        "rewards": rollout.rewards.mean(),
        "ends": rollout.ends.float().mean(),
        "value_error": (rollout.values - returns).abs().mean(),
    }
    total = torch.stack(list(terms.values())).sum()
    return Losses(total, {name: part.detach() for name, part in (terms | means).items()})
