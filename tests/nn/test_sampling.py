"""Draws from categorical distributions."""

import torch
from torch.distributions import Categorical

from iris_cli.nn.sampling import sample


def test_draws_are_those_of_categorical_for_the_same_seed() -> None:
    logits = 3 * torch.randn(50, 40, generator=torch.Generator().manual_seed(0))

    torch.manual_seed(1)
    expected = [Categorical(logits=logits).sample() for _ in range(20)]

    generator = torch.Generator().manual_seed(1)
    assert all(torch.equal(sample(logits, generator), draw) for draw in expected)


def test_without_a_generator_the_global_one_is_used() -> None:
    logits = torch.zeros(100, 5)
    torch.manual_seed(2)
    first = sample(logits)
    torch.manual_seed(2)

    assert torch.equal(sample(logits), first)


def test_frequencies_are_the_probabilities() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.2, 0.0])

    draws = sample(probabilities.log().expand(20_000, 4), torch.Generator().manual_seed(0))

    torch.testing.assert_close(draws.bincount(minlength=4) / 20_000, probabilities, atol=0.015, rtol=0)


def test_leading_axes_are_kept() -> None:
    assert sample(torch.zeros(2, 3, 4)).shape == (2, 3)
