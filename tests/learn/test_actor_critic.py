"""The actor-critic's loss. Equality with the published numbers is in tests/agents/iris/test_agent.py."""

import dataclasses
import math

import pytest
import torch

from iris_cli.learn.actor_critic import Rollout, actor_critic_loss


@pytest.fixture
def rollout() -> Rollout:
    generator = torch.Generator().manual_seed(0)
    return Rollout(
        logits_actions=torch.randn(4, 5, 3, generator=generator).requires_grad_(),
        actions=torch.randint(3, (4, 5), generator=generator),
        values=torch.randn(4, 5, generator=generator).requires_grad_(),
        rewards=torch.randn(4, 5, generator=generator),
        ends=torch.rand(4, 5, generator=generator) > 0.8,
        bootstrap=torch.randn(4, generator=generator).requires_grad_(),
    )


def loss_of(rollout: Rollout, **changes: float):
    return actor_critic_loss(rollout, **{"gamma": 0.99, "lam": 0.95, "entropy_weight": 0.01} | changes)


def test_the_total_is_the_sum_of_its_three_parts(rollout: Rollout) -> None:
    losses = loss_of(rollout)

    torch.testing.assert_close(
        losses.total.detach(), sum(losses.parts[f"loss_{name}"] for name in ("actions", "values", "entropy"))
    )
    assert not any(part.requires_grad for part in losses.parts.values())


def test_gradient_reaches_logits_and_values_but_not_the_bootstrap(rollout: Rollout) -> None:
    loss_of(rollout).total.backward()

    assert rollout.logits_actions.grad.abs().sum(-1).gt(0).all()
    assert rollout.values.grad.abs().gt(0).all()
    assert rollout.bootstrap.grad is None


def test_an_action_that_paid_off_becomes_more_likely(rollout: Rollout) -> None:
    paying = dataclasses.replace(rollout, rewards=torch.full((4, 5), 10.0))

    loss_of(paying, entropy_weight=0.0).total.backward()

    assert (paying.logits_actions.grad.gather(-1, paying.actions[..., None]) < 0).all()


def test_steps_after_an_end_count(rollout: Rollout) -> None:
    ended = dataclasses.replace(
        rollout, ends=torch.zeros(4, 5, dtype=torch.bool).index_fill(1, torch.tensor([0]), True)
    )

    loss_of(ended).total.backward()

    assert ended.values.grad[:, 1:].abs().gt(0).all()


def test_entropy_of_a_uniform_policy_is_log_a(rollout: Rollout) -> None:
    uniform = dataclasses.replace(rollout, logits_actions=torch.zeros(4, 5, 3))

    assert loss_of(uniform).parts["entropy"].item() == pytest.approx(math.log(3))
