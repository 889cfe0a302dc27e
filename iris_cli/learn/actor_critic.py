"""What an actor-critic learns from imagined rollouts: lambda-returns, REINFORCE with the value as baseline, entropy.

`clipped_loss` is a variant, not in the paper or released code of IRIS.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical

from iris_cli.errors import ShapeError
from iris_cli.learn.losses import Losses
from iris_cli.nn.two_hot import TwoHotSymlog


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
        views: (B, H + 1, ...) what the policy looked at, the one after the last step included, or None if not kept.
        logits_values: (B, H, buckets) with gradient, where the values are means of distributions.
        baselines: (B, H) values by which returns and advantages are made instead, as a slower network sees them.
        discounts: (B, H) float32 in [0, 1] as imagined, or None where the world knows of ends only.
    """

    logits_actions: Tensor
    actions: Tensor
    values: Tensor
    rewards: Tensor
    ends: Tensor
    bootstrap: Tensor
    views: Tensor | None = None
    logits_values: Tensor | None = None
    baselines: Tensor | None = None
    discounts: Tensor | None = None


@dataclass(frozen=True)
class Targets:
    """What a rollout teaches, fixed when it was imagined. All without gradient.

    Attributes:
        returns: (B, H) for the values.
        advantages: (B, H), returns less baselines. Not normalised.
        log_probs: (B, H) of the actions, under the policy that imagined them.
    """

    returns: Tensor
    advantages: Tensor
    log_probs: Tensor


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


@torch.no_grad()
def targets_of(rollout: Rollout, *, gamma: float, lam: float) -> Targets:
    """What to learn from a rollout, from the rewards, baselines (or values) and log-probabilities in it."""
    discounts = gamma * (~rollout.ends).float()
    baselines = rollout.values if rollout.baselines is None else rollout.baselines
    returns = lambda_returns(rollout.rewards, discounts, baselines, rollout.bootstrap, lam=lam)
    return Targets(returns, returns - baselines, _policy(rollout).log_prob(rollout.actions))


def actor_critic_loss(
    rollout: Rollout,
    *,
    gamma: float,
    lam: float,
    entropy_weight: float,
    until_end: bool = False,
    two_hot: TwoHotSymlog | None = None,
) -> Losses:
    """The published loss: REINFORCE with baseline, value error, entropy bonus.

    Each is a mean over all B x H steps, those after an imagined end included: only the returns are cut there.
    Advantages are not normalised.

    Args:
        rollout: what was imagined.
        gamma: discount per step.
        lam: of the lambda-returns.
        entropy_weight: of the entropy, in nats.
        until_end: leave out the steps after each row's first imagined end; the one that ends counts.
        two_hot: what `rollout.logits_values` mean; the value error is then a cross-entropy, otherwise squared.

    Returns:
        Parts loss_actions, loss_values, loss_entropy (they sum up to the total), and means over the rollout:
        entropy, returns, values, rewards, ends.
    """
    targets, policy = targets_of(rollout, gamma=gamma, lam=lam), _policy(rollout)
    entropies = policy.entropy()
    gains = policy.log_prob(rollout.actions) * targets.advantages
    counts = until_first_end(rollout.ends) if until_end else None
    return _losses(rollout, targets, gains, entropies, entropy_weight=entropy_weight, counts=counts, two_hot=two_hot)


def clipped_loss(rollout: Rollout, targets: Targets, *, clip_ratio: float, entropy_weight: float) -> Losses:
    """The clipped-ratio objective in place of REINFORCE; values and entropy as in `actor_critic_loss`.

    -mean(min(r * A, clip(r, 1 - clip_ratio, 1 + clip_ratio) * A)), where r is the probability of an action now over
    that when it was drawn. Neither are advantages normalised nor values clipped: the description has neither. Where
    the policy is still the one that imagined, r is 1 and the gradient that of REINFORCE.

    Args:
        rollout: its logits and values are of the policy as it is now.
        targets: as they were when it was imagined.
        clip_ratio: beyond which an action's probability gains nothing by moving further.
        entropy_weight: of the entropy, in nats.

    Returns:
        As `actor_critic_loss`, and clipped, the share of steps whose ratio lies outside.

    Source: Schulman et al. 2017, "Proximal Policy Optimization Algorithms", equations 7 and 9.
    """
    policy = _policy(rollout)
    entropies = policy.entropy()
    ratios = (policy.log_prob(rollout.actions) - targets.log_probs).exp()
    within = ratios.clamp(1 - clip_ratio, 1 + clip_ratio)
    gains = torch.minimum(ratios * targets.advantages, within * targets.advantages)
    losses = _losses(rollout, targets, gains, entropies, entropy_weight=entropy_weight)
    return Losses(losses.total, {**losses.parts, "clipped": (ratios.detach() != within.detach()).float().mean()})


def until_first_end(ends: Tensor) -> Tensor:
    """(B, H) bool, true up to and including the first end of each row; everywhere if there is none."""
    return ends.long().cumsum(1) - ends.long() == 0


def _policy(rollout: Rollout) -> Categorical:
    return Categorical(logits=rollout.logits_actions, validate_args=False)


def _losses(
    rollout: Rollout,
    targets: Targets,
    gains: Tensor,
    entropies: Tensor,
    *,
    entropy_weight: float,
    counts: Tensor | None = None,
    two_hot: TwoHotSymlog | None = None,
) -> Losses:
    """The loss and its parts, from what each step (B, H) gains; means over all steps, or over those that count."""

    def mean(steps: Tensor) -> Tensor:
        return steps.mean() if counts is None else (steps * counts).sum() / counts.sum()

    if two_hot is None or rollout.logits_values is None:
        errors = F.mse_loss(rollout.values, targets.returns, reduction="none")
    else:
        errors = two_hot.loss(rollout.logits_values, targets.returns)
    entropy, loss_actions, loss_values = mean(entropies), -mean(gains), mean(errors)
    loss_entropy = -entropy_weight * entropy
    parts = {
        "loss_actions": loss_actions,
        "loss_values": loss_values,
        "loss_entropy": loss_entropy,
        "entropy": entropy,
        "returns": mean(targets.returns),
        "values": mean(rollout.values),
        "rewards": mean(rollout.rewards),
        "ends": mean(rollout.ends.float()),
    }
    return Losses(loss_actions + loss_values + loss_entropy, {name: part.detach() for name, part in parts.items()})
