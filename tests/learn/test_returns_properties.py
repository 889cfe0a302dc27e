"""Lambda-returns of any numbers equal their definition, and the forms of the three papers."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from iris_cli.learn.actor_critic import lambda_returns

Case = tuple[Tensor, Tensor, Tensor, Tensor, float]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Rewards, discounts (some of them 0, where an episode ends), values, bootstrap, lambda; float64."""
    batch, horizon = draw(st.integers(1, 3)), draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = 10.0 ** draw(st.integers(-3, 4))
    rewards, values = scale * torch.randn(2, batch, horizon, generator=generator, dtype=torch.float64)
    gamma = draw(st.floats(0, 1))
    discounts = gamma * (torch.rand(batch, horizon, generator=generator) > 0.25).double()
    bootstrap = scale * torch.randn(batch, generator=generator, dtype=torch.float64)
    return rewards, discounts, values, bootstrap, draw(st.floats(0, 1))


def naive(rewards: Tensor, discounts: Tensor, values: Tensor, bootstrap: Tensor, lam: float) -> Tensor:
    """Every n-step return written out, then their mean weighted by powers of lambda: O(T^2) for each step."""
    batch, horizon = rewards.shape
    after = torch.cat([values[:, 1:], bootstrap[:, None]], 1)
    returns = torch.zeros_like(rewards)
    for b in range(batch):
        for t in range(horizon):
            for n in range(1, horizon - t + 1):
                total, discount = 0.0, 1.0
                for k in range(t, t + n):
                    total += discount * float(rewards[b, k])
                    discount *= float(discounts[b, k])
                total += discount * float(after[b, t + n - 1])
                weight = lam ** (n - 1) * (1.0 if n == horizon - t else 1 - lam)
                returns[b, t] += weight * total
    return returns


@given(cases())
def test_they_are_the_weighted_sum_of_all_n_step_returns(case: Case) -> None:
    *arrays, lam = case

    torch.testing.assert_close(lambda_returns(*arrays, lam=lam), naive(*arrays, lam), rtol=1e-9, atol=1e-9)


@given(cases())
def test_the_forms_of_the_three_papers_are_one(case: Case) -> None:
    """IRIS: backwards over returns. Δ-IRIS: the same with ends as a mask. TWM: advantages, plus values."""
    rewards, discounts, values, bootstrap, lam = case
    after = torch.cat([values[:, 1:], bootstrap[:, None]], 1)
    recursive, masked, advantages = (torch.zeros_like(rewards) for _ in range(3))
    last = later = bootstrap
    gamma, ends = float(discounts.max()), discounts == 0
    advantage = torch.zeros_like(bootstrap)
    for t in reversed(range(rewards.shape[1])):
        recursive[:, t] = last = rewards[:, t] + discounts[:, t] * ((1 - lam) * after[:, t] + lam * last)
        masked[:, t] = later = rewards[:, t] + (~ends[:, t]).double() * gamma * ((1 - lam) * after[:, t] + lam * later)
        delta = rewards[:, t] + discounts[:, t] * after[:, t] - values[:, t]
        advantages[:, t] = advantage = delta + discounts[:, t] * lam * advantage

    ours = lambda_returns(rewards, discounts, values, bootstrap, lam=lam)

    for other in (recursive, masked, advantages + values):
        torch.testing.assert_close(ours, other, rtol=1e-9, atol=1e-8)


@given(cases(), st.floats(-5, 5))
def test_they_are_linear_in_rewards_and_values(case: Case, factor: float) -> None:
    rewards, discounts, values, bootstrap, lam = case

    scaled = lambda_returns(factor * rewards, discounts, factor * values, factor * bootstrap, lam=lam)

    torch.testing.assert_close(scaled, factor * lambda_returns(*case[:4], lam=lam), rtol=1e-9, atol=1e-9)


@given(cases(), st.data())
def test_nothing_before_an_end_knows_what_comes_after(case: Case, data: st.DataObject) -> None:
    rewards, discounts, values, bootstrap, lam = case
    end = data.draw(st.integers(0, rewards.shape[1] - 1))
    discounts = discounts.clone()
    discounts[:, end] = 0
    others = rewards.clone(), values.clone()
    for other in others:
        other[:, end + 1 :] += 100

    ours = lambda_returns(rewards, discounts, values, bootstrap, lam=lam)

    changed = lambda_returns(others[0], discounts, others[1], bootstrap + 100, lam=lam)
    assert torch.equal(changed[:, : end + 1], ours[:, : end + 1])
