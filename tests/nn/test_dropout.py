"""Dropout with few random numbers."""

import pytest
import torch

from iris_cli.nn.dropout import Dropout, dropout


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_the_asked_share_is_dropped_and_the_mean_stays(probability: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 333)

    y = dropout(x, probability)

    assert (y == 0).float().mean().item() == pytest.approx(probability, abs=0.004)
    assert y.mean().item() == pytest.approx(1, abs=0.02)
    assert y.unique().numel() == 2


def test_neighbours_that_share_a_random_number_are_dropped_independently() -> None:
    torch.manual_seed(0)
    dropped = (dropout(torch.ones(100_000, 4), 0.5) == 0).float()

    correlations = torch.corrcoef(dropped.T) - torch.eye(4)

    assert correlations.abs().max().item() < 0.02
    assert (dropped.mean(0) - 0.5).abs().max().item() < 0.01


def test_the_seed_decides_and_evaluation_drops_nothing() -> None:
    layer, x = Dropout(0.3), torch.randn(7, 5)
    first, again = (layer(x) for _ in range(2) if torch.manual_seed(3))

    assert torch.equal(first, again)
    assert torch.equal(layer.eval()(x), x)


@pytest.mark.parametrize(("probability", "kept"), [(0.0, 1.0), (1.0, 0.0)])
def test_all_or_nothing(probability: float, kept: float) -> None:
    assert (dropout(torch.ones(9), probability) == kept).all()


def test_gradients_flow_where_entries_were_kept() -> None:
    torch.manual_seed(0)
    x = torch.ones(100, requires_grad=True)

    y = dropout(x, 0.25)
    y.sum().backward()

    assert torch.equal(x.grad, y.detach())
