"""Latents of independent categoricals, against torch.distributions."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from iris_cli.nn.categorical import (
    cross_entropies,
    draw_one_hot,
    entropies,
    most_probable,
    normalised_entropies,
    one_hot,
    straight_through,
)  # fmt: skip


@pytest.fixture
def logits() -> Tensor:
    return (3 * torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))).log_softmax(-1)


def test_entropies_and_cross_entropies_are_those_of_the_distributions(logits: Tensor) -> None:
    others = logits.flip(1)
    first, second = Categorical(logits=logits), Categorical(logits=others)

    torch.testing.assert_close(entropies(logits), first.entropy())
    cross = (kl_divergence(first, second) + first.entropy()).sum(-1)
    torch.testing.assert_close(cross_entropies(logits, others), cross)


def test_a_uniform_latent_has_entropy_1_and_a_certain_one_0() -> None:
    uniform = torch.zeros(3, 4, 5).log_softmax(-1)
    certain = torch.tensor([50.0, 0, 0, 0, 0]).expand(3, 4, 5).log_softmax(-1)

    torch.testing.assert_close(normalised_entropies(uniform), torch.ones(3))
    torch.testing.assert_close(normalised_entropies(certain), torch.zeros(3), atol=1e-6, rtol=0)


def test_targets_learn_nothing(logits: Tensor) -> None:
    targets, learned = logits.clone().requires_grad_(), logits.clone().requires_grad_()

    cross_entropies(targets, learned).sum().backward()

    assert targets.grad is None
    assert learned.grad is not None


def test_draws_are_as_frequent_as_they_are_probable(logits: Tensor) -> None:
    many = logits.expand(20_000, 2, 4, 5)

    shares = draw_one_hot(many, torch.Generator().manual_seed(1)).mean(0).view(2, 4, 5)

    torch.testing.assert_close(shares, logits.exp(), atol=0.015, rtol=0)


def test_the_most_probable_latent_lies_side_by_side() -> None:
    logits = torch.tensor([[[0.0, 1.0], [2.0, 0.0]]])

    assert most_probable(logits).tolist() == [[0, 1, 1, 0]]
    assert torch.equal(most_probable(logits), one_hot(torch.tensor([[1, 0]]), 2))


def test_straight_through_values_stay_exactly_one_hot(logits: Tensor) -> None:
    drawn = draw_one_hot(logits)

    assert torch.equal(straight_through(drawn, logits), drawn)
