"""Two-hot buckets. Equality with the published numbers is in tests/agents/delta_iris/test_dynamics.py."""

import pytest
import torch

from iris_cli.nn.two_hot import TwoHotSymlog, symexp, symlog


def test_symexp_undoes_symlog() -> None:
    x = torch.tensor([-1e4, -3.0, -1e-4, 0.0, 1e-4, 0.5, 100.0])

    torch.testing.assert_close(symexp(symlog(x)), x, rtol=1e-5, atol=0)


def test_the_weights_sum_to_one_and_mean_the_number() -> None:
    two_hot = TwoHotSymlog()
    x = torch.tensor([[-50.0, -1.0, -0.01], [0.3, 1.0, 777.0]])

    weights = two_hot.probabilities(x)

    assert weights.shape == (2, 3, 255)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3))
    assert (weights > 0).sum(-1).max() <= 2
    torch.testing.assert_close(two_hot.expectation(weights.log()), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("x", [-1e12, 1e12, -4.85165195e8, float("inf")])
def test_numbers_beyond_the_buckets_count_as_the_outermost(x: float) -> None:
    weights = TwoHotSymlog().probabilities(torch.tensor(x))

    assert weights[0 if x < 0 else -1] > 0.99
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))


def test_the_argument_stays_as_it_was() -> None:
    x = torch.tensor([1e12, -1e12])

    TwoHotSymlog().probabilities(x)

    assert x.tolist() == [torch.tensor(1e12).item(), torch.tensor(-1e12).item()]


def test_the_buckets_are_in_no_checkpoint() -> None:
    assert not TwoHotSymlog().state_dict()
