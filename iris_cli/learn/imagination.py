"""The one imagination loop: a policy acts in a dream."""

import torch

from iris_cli.learn.actor_critic import Rollout
from iris_cli.learn.world import Dream, Policy
from iris_cli.nn.sampling import sample


def imagine(
    dream: Dream,
    actor_critic: Policy,
    memory: object,
    horizon: int,
    generator: torch.Generator | None = None,
    *,
    greedy: bool = False,
) -> Rollout:
    """Let the policy act until it has seen `horizon` views.

    The last view gives only the bootstrap value: no action is drawn there, so that there are horizon - 1 transitions.
    Gradients flow through the policy's heads, memory and trunk of every view, and none through the dream.

    Args:
        dream: freshly begun; it is used up.
        actor_critic: the policy.
        memory: its memory before the dream's first view, or None.
        horizon: H, views, at least 2.
        generator: draws the actions, on the dream's device; the dream may share it. None is torch's global one.
        greedy: take the most probable action instead.

    Returns:
        A rollout of H - 1 transitions.
    """
    logits, values, actions, rewards, ends = [], [], [], [], []
    discounts: list[torch.Tensor] = []
    output = actor_critic(dream.view, memory)
    for _ in range(horizon - 1):  # Hot path: nothing here waits for the device.
        action = output.logits_actions.argmax(-1) if greedy else sample(output.logits_actions.detach(), generator)
        outcome = dream.step(action)
        logits.append(output.logits_actions)
        values.append(output.values)
        actions.append(action)
        rewards.append(outcome.rewards)
        ends.append(outcome.ends)
        if outcome.discounts is not None:
            discounts.append(outcome.discounts)
        output = actor_critic(dream.view, output.memory)
    return Rollout(
        logits_actions=torch.stack(logits, 1),
        actions=torch.stack(actions, 1),
        values=torch.stack(values, 1),
        rewards=torch.stack(rewards, 1),
        ends=torch.stack(ends, 1),
        bootstrap=output.values,
        discounts=torch.stack(discounts, 1) if discounts else None,
    )
