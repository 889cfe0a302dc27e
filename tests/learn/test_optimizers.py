"""Which optimizer a component's settings ask for, and what a step of groups does."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from iris_cli.learn.fit import learners_of
from iris_cli.learn.optimizers import make_optimizer


@dataclass(frozen=True)
class Plain:
    learning_rate: float = 0.1


@dataclass(frozen=True)
class Decaying(Plain):
    weight_decay: float = 0.5


@dataclass(frozen=True)
class Coupled(Plain):
    adam_epsilon: float = 1e-5
    l2_penalty: float = 0.5


class Two(nn.Module):
    """Two layers that learn at rates of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)

    def parameter_groups(self) -> list[dict]:
        return [
            {"name": "first", "params": list(self.first.parameters())},
            {"name": "second", "params": list(self.second.parameters()), "lr": 0.01},
        ]


def test_settings_say_which_adam() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))

    assert type(make_optimizer(module, Plain())) is torch.optim.Adam
    decays = [group["weight_decay"] for group in make_optimizer(module, Decaying()).param_groups]
    assert decays == [0.5, 0.0]  # linear weights alone
    coupled = make_optimizer(module, Coupled())
    assert type(coupled) is torch.optim.Adam
    assert [(group["weight_decay"], group["eps"]) for group in coupled.param_groups] == [(0.5, 1e-5)]


def test_a_coupled_penalty_moves_a_weight_without_gradient_by_a_whole_step() -> None:
    """AdamW would only shrink it by learning rate times decay."""
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, 2.0)
    layer.weight.grad, layer.bias.grad = torch.zeros(1, 1), torch.zeros(1)

    make_optimizer(layer, Coupled()).step()

    assert layer.weight.item() == pytest.approx(1.9, abs=1e-4)


def test_each_group_is_clipped_by_itself_and_learns_at_its_rate() -> None:
    module = Two()
    optimizer = make_optimizer(module, Coupled(l2_penalty=0.0))
    before = [parameter.detach().clone() for parameter in module.parameters()]
    module.first.weight.grad = torch.tensor([[30.0, 40.0]])
    module.second.weight.grad = torch.tensor([[0.3, 0.4]])

    learners = learners_of(module, optimizer, 1.0)
    norms = [nn.utils.clip_grad_norm_(learner.parameters, learner.clip_norm).item() for learner in learners]
    optimizer.step()

    assert norms == pytest.approx([50.0, 0.5])
    assert [learner.metric for learner in learners] == ["gradient_norm_first", "gradient_norm_second"]
    moved = [(now - then).abs().max().item() for now, then in zip(module.parameters(), before, strict=True)]
    assert moved == pytest.approx([0.1, 0.01], rel=1e-2)
    momentum = [optimizer.state[parameter]["exp_avg"].norm().item() for parameter in module.parameters()]
    assert momentum == pytest.approx([0.1, 0.05], rel=1e-3)  # a tenth of the clipped and of the untouched gradient
