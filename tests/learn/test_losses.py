import pytest
import torch

from iris_cli.learn.losses import share_of_mean


@pytest.mark.parametrize("cuts", [(2, 3), (1, 1, 3), (4, 1)])
def test_weighted_shares_of_a_mean_sum_up_to_the_mean(cuts: tuple[int, ...]) -> None:
    values = torch.arange(20.0).view(5, 4)
    real = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]]).bool()
    total = torch.zeros(())

    for value, mask in zip(values.split(cuts), real.split(cuts), strict=True):
        mean = (value * mask).sum() / mask.sum().clamp_min(1)
        total += share_of_mean(mean, mask, real) * len(mask) / len(real)

    torch.testing.assert_close(total, values[real].mean())


def test_nothing_real_anywhere_adds_nothing() -> None:
    nothing = torch.zeros(4, 3, dtype=torch.bool)

    assert share_of_mean(torch.zeros(()), nothing[:2], nothing) == 0


def test_a_share_that_is_all_is_the_mean() -> None:
    mean = torch.tensor(0.1)

    assert share_of_mean(mean, torch.ones(3, dtype=torch.bool), None) is mean
