"""Operations and bytes are counted as one would on paper."""

import torch
from torch.nn import functional as F

from iris_cli.learn.work import Work, counted, peaks


def test_a_product_is_two_operations_per_multiply_add() -> None:
    a, b = torch.randn(3, 5), torch.randn(5, 7)

    assert counted(lambda: a @ b) == Work(2 * 3 * 5 * 7, 4 * (15 + 35 + 21))


def test_the_backward_pass_of_a_convolution_counts_twice_its_forward_pass() -> None:
    images, weight = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randn(4, 3, 3, 3, requires_grad=True)
    forward = 2 * 2 * 4 * 8 * 8 * 3 * 3 * 3

    assert counted(lambda: F.conv2d(images, weight, padding=1)).operations == forward
    assert counted(lambda: F.conv2d(images, weight, padding=1).sum().backward()).operations == 3 * forward


def test_views_cost_nothing() -> None:
    x = torch.randn(4, 6)

    assert counted(lambda: x.T[1:3].view(2, 4)) == Work(0, 0)


def test_work_scales() -> None:
    assert Work(6, 4) / 2 * 3 == Work(9, 6)


def test_the_processor_does_something() -> None:
    operations, moved = peaks(torch.device("cpu"), torch.float32)

    assert operations > 1e8
    assert moved > 1e7
