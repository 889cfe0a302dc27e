"""The one imagination loop: a policy acts in a dream."""

from dataclasses import replace

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
    keep_views: bool = False,
    target: tuple[Policy, object] | None = None,
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
        keep_views: whether the rollout keeps what the policy looked at.
        target: another policy and its memory; it looks on without gradient, and its values are the baselines and the
            bootstrap.

    Returns:
        A rollout of H - 1 transitions.
    """
    outputs, actions, outcomes, baselines = [], [], [], []
    views = [dream.view] if keep_views else []
    critic, critic_memory = (actor_critic, None) if target is None else target
    for _ in range(horizon - 1):  # Hot path: nothing here waits for the device.
        output = actor_critic(dream.view, memory)
        memory = output.memory
        if target is not None:
            with torch.no_grad():
                onlooker = critic(dream.view, critic_memory)
            critic_memory = onlooker.memory
            baselines.append(onlooker.values)
        action = output.logits_actions.argmax(-1) if greedy else sample(output.logits_actions.detach(), generator)
        outputs.append(output)
        actions.append(action)
        outcomes.append(dream.step(action))
        if keep_views:
            views.append(dream.view)
    last = critic(dream.view, memory if target is None else critic_memory)
    distributions = [output.logits_values for output in outputs if output.logits_values is not None]
    discounts = [outcome.discounts for outcome in outcomes if outcome.discounts is not None]
    return Rollout(
        logits_actions=torch.stack([output.logits_actions for output in outputs], 1),
        actions=torch.stack(actions, 1),
        values=torch.stack([output.values for output in outputs], 1),
        rewards=torch.stack([outcome.rewards for outcome in outcomes], 1),
        ends=torch.stack([outcome.ends for outcome in outcomes], 1),
        bootstrap=last.values,
        views=torch.stack(views, 1) if keep_views else None,
        logits_values=torch.stack(distributions, 1) if distributions else None,
        baselines=torch.stack(baselines, 1) if baselines else None,
        discounts=torch.stack(discounts, 1) if discounts else None,
    )


def look_again(rollout: Rollout, actor_critic: Policy, memory: object) -> Rollout:
    """The rollout with the logits and values of the policy as it is now; all else stays as it was imagined.

    Args:
        rollout: with views.
        actor_critic: the policy.
        memory: as it was before the first view. The policy of then filled it, as is usual for recurrent policies.
    """
    assert rollout.views is not None
    logits, values = [], []
    for view in rollout.views[:, :-1].unbind(1):
        output = actor_critic(view, memory)
        logits.append(output.logits_actions)
        values.append(output.values)
        memory = output.memory
    return replace(rollout, logits_actions=torch.stack(logits, 1), values=torch.stack(values, 1))
