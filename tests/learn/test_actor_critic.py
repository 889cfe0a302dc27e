"""The actor-critic's loss. Equality with the published numbers is in tests/agents/iris/test_agent.py."""

import dataclasses
import math

import pytest
import torch

from iris_cli.learn.actor_critic import Rollout, actor_critic_loss, clipped_loss, targets_of
from iris_cli.nn.two_hot import TwoHotSymlog


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


def test_steps_after_the_first_end_of_a_row_can_be_left_out_but_not_the_one_that_ends(rollout: Rollout) -> None:
    ends = torch.zeros(4, 5, dtype=torch.bool)
    ends[0, 1] = ends[0, 3] = ends[1, 4] = ends[3, 0] = True
    ended = dataclasses.replace(rollout, ends=ends)

    loss_of(ended, until_end=True).total.backward()

    counts = [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]
    assert ended.values.grad.ne(0).int().tolist() == counts


def test_baselines_replace_the_values_in_returns_and_advantages(rollout: Rollout) -> None:
    slow = dataclasses.replace(rollout, baselines=rollout.values.detach() + 1.0)
    moved = dataclasses.replace(rollout, values=rollout.values.detach() + 1.0)

    for name in ("returns", "loss_actions"):
        assert torch.equal(loss_of(slow).parts[name], loss_of(moved).parts[name])
    assert torch.equal(loss_of(slow).parts["values"], loss_of(rollout).parts["values"])


def test_values_that_are_distributions_learn_the_returns_by_cross_entropy(rollout: Rollout) -> None:
    two_hot, logits = TwoHotSymlog(), torch.zeros(4, 5, 255, requires_grad=True)
    spread = dataclasses.replace(rollout, logits_values=logits)

    losses = loss_of(spread, two_hot=two_hot)
    losses.total.backward()

    assert losses.parts["loss_values"].item() == pytest.approx(math.log(255), rel=1e-5)
    assert rollout.values.grad is None
    with torch.no_grad():
        better = loss_of(dataclasses.replace(spread, logits_values=logits - 100 * logits.grad), two_hot=two_hot)
    assert better.parts["loss_values"] < losses.parts["loss_values"]


# The clipped objective


def clipped_loss_of(now: Rollout, then: Rollout, clip_ratio: float = 0.2):
    return clipped_loss(now, targets_of(then, gamma=0.99, lam=0.95), clip_ratio=clip_ratio, entropy_weight=0.01)


def moved(rollout: Rollout, amount: float) -> Rollout:
    """Under a policy that gives the chosen actions' logits so much more."""
    chosen = torch.nn.functional.one_hot(rollout.actions, rollout.logits_actions.shape[-1])
    return dataclasses.replace(
        rollout, logits_actions=(rollout.logits_actions + amount * chosen).detach().requires_grad_()
    )


def test_at_the_first_pass_its_gradient_is_that_of_reinforce(rollout: Rollout) -> None:
    inputs = (rollout.logits_actions, rollout.values)
    expected = torch.autograd.grad(loss_of(rollout).total, inputs)

    losses = clipped_loss_of(rollout, rollout)

    for gradient, published in zip(torch.autograd.grad(losses.total, inputs), expected, strict=True):
        torch.testing.assert_close(gradient, published, rtol=1e-5, atol=1e-8)
    assert losses.parts["clipped"] == 0
    torch.testing.assert_close(losses.parts["loss_values"], loss_of(rollout).parts["loss_values"])


@pytest.mark.parametrize(("amount", "stops_where_advantages_are"), [(5.0, "positive"), (-5.0, "negative")])
def test_an_action_that_moved_too_far_where_it_pays_gets_no_further(
    rollout: Rollout, amount: float, stops_where_advantages_are: str
) -> None:
    advantages = targets_of(rollout, gamma=0.99, lam=0.95).advantages
    now = moved(rollout, amount)

    losses = clipped_loss(now, targets_of(rollout, gamma=0.99, lam=0.95), clip_ratio=0.01, entropy_weight=0.0)
    losses.total.backward()

    assert losses.parts["clipped"] == 1
    moves = now.logits_actions.grad.abs().sum(-1) > 0
    assert torch.equal(moves, advantages < 0 if stops_where_advantages_are == "positive" else advantages > 0)


def test_its_total_is_the_sum_of_its_three_parts(rollout: Rollout) -> None:
    losses = clipped_loss_of(moved(rollout, 0.3), rollout)

    torch.testing.assert_close(
        losses.total.detach(), sum(losses.parts[f"loss_{name}"] for name in ("actions", "values", "entropy"))
    )
    assert 0 < losses.parts["clipped"] < 1


def test_its_targets_are_those_of_the_policy_that_imagined(rollout: Rollout) -> None:
    later = dataclasses.replace(rollout, values=(rollout.values + 3).detach().requires_grad_())

    losses = clipped_loss_of(later, rollout)

    assert losses.parts["loss_actions"] == clipped_loss_of(rollout, rollout).parts["loss_actions"]
    assert losses.parts["returns"] == clipped_loss_of(rollout, rollout).parts["returns"]
    assert losses.parts["loss_values"] != clipped_loss_of(rollout, rollout).parts["loss_values"]
