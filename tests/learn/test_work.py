"""Operations and bytes are counted as one would on paper."""

import torch
from torch import nn
from torch.nn import functional as F

from iris_cli.learn.work import Kept, Work, counted, peaks


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


def test_what_a_backward_pass_needs_is_counted_once_and_let_go_with_it() -> None:
    layer, x = nn.Linear(5, 7), torch.randn(3, 5)

    with Kept(layer) as kept:
        for _ in range(2):
            hidden = layer(x)  # keeps x
            (hidden.exp() + hidden.exp()).sum().backward()  # keeps two results

    assert kept.peak == 4 * (3 * 5 + 2 * 3 * 7)
    assert kept._now == 0
    plain = torch.autograd.grad((layer(x).exp() + layer(x).exp()).sum(), list(layer.parameters()))
    torch.testing.assert_close(layer.weight.grad, 2 * plain[0])
