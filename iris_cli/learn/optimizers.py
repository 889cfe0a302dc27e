"""Adam and AdamW as the three papers use them."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn


class OptimizerConfig(Protocol):
    """The part of a component's settings that its optimizer needs."""

    @property
    def learning_rate(self) -> float: ...


def make_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of a component, by what its settings name.

    Plain Adam; with `adam_epsilon` and `l2_penalty` Adam whose decay of every parameter passes through its moments;
    with a positive `weight_decay` AdamW that decays the weights of linear layers only. A module that has
    `parameter_groups()` says by them which parameters learn at another rate.

    Source: fact sheets of IRIS, sections 1 and 6 (embeddings, norms, biases and convolutions never decay), and of TWM,
    section 4.3 (everything does).
    """
    decay = getattr(config, "weight_decay", 0.0)
    fused = next(module.parameters()).is_cuda
    if hasattr(config, "l2_penalty"):
        own_groups: Callable[[], Any] = getattr(module, "parameter_groups", module.parameters)
        return torch.optim.Adam(
            own_groups(), lr=config.learning_rate, eps=getattr(config, "adam_epsilon", 1e-8),
            weight_decay=config.l2_penalty, fused=fused,
        )  # fmt: skip
    if not decay:
        return torch.optim.Adam(module.parameters(), lr=config.learning_rate, fused=fused)
    linear = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Linear)}
    groups = [
        {"params": [p for p in module.parameters() if id(p) in linear], "weight_decay": decay},
        {"params": [p for p in module.parameters() if id(p) not in linear], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=fused)
