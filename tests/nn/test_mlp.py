"""Stacks of linear layers: their names, where activations stand, and their first weights."""

import math

import pytest
import torch
from torch import nn

from iris_cli.nn.mlp import MLP


def test_layers_are_named_from_1_and_the_last_is_linear() -> None:
    network = MLP([3, 5, 2])

    assert list(network.state_dict()) == ["linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias"]
    assert isinstance(network[-1], nn.Linear)


def test_an_activated_output_ends_with_an_activation_and_its_dropout() -> None:
    network = MLP([3, 5], activates_output=True, dropout=0.5)
    x = torch.randn(2, 3)

    torch.testing.assert_close(network.eval()(x), nn.functional.silu(network.linear1(x)))
    assert network[-1].p == 0.5


@pytest.mark.parametrize(("last", "gain"), [(False, math.sqrt(2)), (True, 1.0)])
def test_weights_have_a_gain_where_an_activation_follows(last: bool, gain: float) -> None:
    torch.manual_seed(0)
    network = MLP([400, 300, 200])
    layer = network.linear2 if last else network.linear1

    assert layer.weight.std().item() == pytest.approx(gain / math.sqrt(layer.in_features), rel=0.02)
    assert not layer.bias.any()


def test_orthogonal_weights_are_orthogonal() -> None:
    weight = MLP([30, 10], orthogonal=True).linear1.weight

    torch.testing.assert_close(weight @ weight.T, torch.eye(10), atol=1e-5, rtol=0)
