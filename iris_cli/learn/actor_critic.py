"""What an actor-critic learns from imagined rollouts: lambda-returns, REINFORCE with the value as baseline, entropy."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical

from iris_cli.errors import ShapeError
from iris_cli.learn.losses import Losses


@dataclass(frozen=True)
class Rollout:
    """H steps that a policy imagined.

    Attributes:
        logits_actions: (B, H, A) with gradient.
        actions: (B, H) int64 that were drawn from them.
        values: (B, H) with gradient, of the view that step t was chosen on.
        rewards: (B, H) float32 after step t.
        ends: (B, H) bool, whether the episode ended with step t. The steps after an end are kept.
        bootstrap: (B,) value of the view after the last step.
        discounts: (B, H) float32 in [0, 1] as imagined, or None where the world knows of ends only.
    """

    logits_actions: Tensor
    actions: Tensor
    values: Tensor
    rewards: Tensor
    ends: Tensor
    bootstrap: Tensor
    discounts: Tensor | None = None


@torch.no_grad()
def lambda_returns(rewards: Tensor, discounts: Tensor, values: Tensor, bootstrap: Tensor, *, lam: float) -> Tensor:
    """Blend n-step returns, weighting longer ones by powers of lam.

    R[t] = r[t] + d[t] * ((1 - lam) * v[t+1] + lam * R[t+1]), with v[H] = R[H] = bootstrap.

    Args:
        rewards: (B, H) after step t, as the agent learns from them (clipped or not).
        discounts: (B, H) in [0, 1]: gamma where the episode goes on after step t, 0 where it ends.
        values: (B, H) value of the view before step t. Not differentiated.
        bootstrap: (B,) value of the view after the last step.
        lam: in [0, 1]; 0 is one-step, 1 is Monte Carlo.

    Returns:
        (B, H) targets for `values`, without gradient.

    Raises:
        ShapeError: if the four do not agree on B and H.

    Source: Sutton & Barto 2018, section 12.1. The three references' forms equal this one
    (tests/learn/test_lambda_returns.py).
    """
    if not (rewards.dim() == 2 and rewards.shape == discounts.shape == values.shape):
        shapes = ", ".join(str(tuple(x.shape)) for x in (rewards, discounts, values))
        raise ShapeError(f"rewards, discounts and values must have one shape (B, H). Got {shapes}")
    if bootstrap.shape != rewards.shape[:1]:
        raise ShapeError(f"bootstrap must have shape (B,)=({rewards.shape[0]},). Got {tuple(bootstrap.shape)}")
    next_values = torch.cat([values[:, 1:], bootstrap[:, None]], 1)
    one_step = rewards + discounts * (1 - lam) * next_values
    returns, after = torch.empty_like(rewards), bootstrap
    for t in reversed(range(rewards.shape[1])):
        after = one_step[:, t] + discounts[:, t] * lam * after
        returns[:, t] = after
    return returns


def actor_critic_loss(rollout: Rollout, *, gamma: float, lam: float, entropy_weight: float) -> Losses:
    """The published loss: REINFORCE with baseline, squared value error, entropy bonus.

    Each is a mean over all B x H steps, those after an imagined end included: only the returns are cut there.
    Advantages are not normalised.

    Args:
        rollout: what was imagined.
        gamma: discount per step.
        lam: of the lambda-returns.
        entropy_weight: of the entropy, in nats.

    Returns:
        Parts loss_actions, loss_values, loss_entropy (they sum up to the total), and means over the rollout:
        entropy, returns, values, rewards, ends.
    """
    discounts = gamma * (~rollout.ends).float()
    returns = lambda_returns(rollout.rewards, discounts, rollout.values, rollout.bootstrap, lam=lam)
    policy = Categorical(logits=rollout.logits_actions, validate_args=False)
    advantages = returns - rollout.values.detach()
    entropy = policy.entropy().mean()
    loss_actions = -(policy.log_prob(rollout.actions) * advantages).mean()
    loss_values = F.mse_loss(rollout.values, returns)
    loss_entropy = -entropy_weight * entropy
    parts = {
        "loss_actions": loss_actions,
        "loss_values": loss_values,
        "loss_entropy": loss_entropy,
        "entropy": entropy,
        "returns": returns.mean(),
        "values": rollout.values.mean(),
        "rewards": rollout.rewards.mean(),
        "ends": rollout.ends.float().mean(),
    }
    return Losses(loss_actions + loss_values + loss_entropy, {name: part.detach() for name, part in parts.items()})
