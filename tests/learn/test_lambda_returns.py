"""Lambda-returns. Equality with the published numbers is in tests/agents/iris/test_agent.py."""

import pytest
import torch
from torch import Tensor

from iris_cli.errors import ShapeError
from iris_cli.learn.actor_critic import lambda_returns


@pytest.fixture
def arrays() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 3, 7, generator=generator, dtype=torch.float64)
    discounts = 0.9 * (torch.rand(3, 7, generator=generator, dtype=torch.float64) > 0.2)
    return rewards, discounts, values, torch.randn(3, generator=generator, dtype=torch.float64)


def test_lambda_0_is_the_one_step_return(arrays: tuple[Tensor, ...]) -> None:
    rewards, discounts, values, bootstrap = arrays
    next_values = torch.cat([values[:, 1:], bootstrap[:, None]], 1)

    returns = lambda_returns(*arrays, lam=0.0)

    torch.testing.assert_close(returns, rewards + discounts * next_values)


def test_lambda_1_is_the_discounted_sum(arrays: tuple[Tensor, ...]) -> None:
    rewards, discounts, _, bootstrap = arrays
    steps = torch.cat([torch.ones(3, 1), discounts], 1).cumprod(1)  # weight of each reward, and of the bootstrap

    returns = lambda_returns(*arrays, lam=1.0)

    torch.testing.assert_close(returns[:, 0], (steps[:, :-1] * rewards).sum(1) + steps[:, -1] * bootstrap)


def test_it_is_the_weighted_sum_of_n_step_returns(arrays: tuple[Tensor, ...]) -> None:
    rewards, discounts, values, bootstrap = arrays
    lam, horizon = 0.7, 7
    after = torch.cat([values[:, 1:], bootstrap[:, None]], 1)
    weights = torch.cat([torch.ones(3, 1), discounts], 1).cumprod(1)
    n_step = [(weights[:, :n] * rewards[:, :n]).sum(1) + weights[:, n] * after[:, n - 1] for n in range(1, horizon + 1)]
    shares = [(1 - lam) * lam ** (n - 1) for n in range(1, horizon)] + [lam ** (horizon - 1)]

    returns = lambda_returns(*arrays, lam=lam)

    torch.testing.assert_close(returns[:, 0], sum(share * value for share, value in zip(shares, n_step, strict=True)))


def test_it_equals_generalised_advantages_plus_values(arrays: tuple[Tensor, ...]) -> None:
    """The form of the third reference: A[t] = delta[t] + d[t] * lam * A[t+1]."""
    rewards, discounts, values, bootstrap = arrays
    deltas = rewards + discounts * torch.cat([values[:, 1:], bootstrap[:, None]], 1) - values
    advantages, after = torch.zeros_like(values), torch.zeros(3)
    for t in reversed(range(7)):
        advantages[:, t] = after = deltas[:, t] + discounts[:, t] * 0.95 * after

    returns = lambda_returns(*arrays, lam=0.95)

    torch.testing.assert_close(returns, advantages + values)


def test_nothing_passes_an_end(arrays: tuple[Tensor, ...]) -> None:
    rewards, discounts, values, bootstrap = arrays
    discounts[:, 3] = 0

    returns = lambda_returns(rewards, discounts, values, bootstrap, lam=0.95)

    torch.testing.assert_close(returns[:, 3], rewards[:, 3])
    assert torch.equal(lambda_returns(rewards, discounts, values, bootstrap + 9, lam=0.95)[:, :4], returns[:, :4])


def test_shapes_that_disagree_are_refused(arrays: tuple[Tensor, ...]) -> None:
    rewards, discounts, values, bootstrap = arrays
    with pytest.raises(ShapeError, match=r"\(3, 6\)"):
        lambda_returns(rewards, discounts, values[:, 1:], bootstrap, lam=0.95)
    with pytest.raises(ShapeError, match="bootstrap"):
        lambda_returns(rewards, discounts, values, bootstrap[1:], lam=0.95)
