"""Adam and AdamW as the three papers use them."""

from typing import Protocol

import torch
from torch import nn


class OptimizerConfig(Protocol):
    """The part of a component's settings that its optimizer needs."""

    @property
    def learning_rate(self) -> float: ...


def make_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Adam, or AdamW where `config.weight_decay` is positive: it then decays the weights of linear layers only.

    Source: fact sheet of IRIS, sections 1 and 6; embeddings, norms, biases and convolutions never decay.
    """
    decay = getattr(config, "weight_decay", 0.0)
    fused = next(module.parameters()).is_cuda
    if not decay:
        return torch.optim.Adam(module.parameters(), lr=config.learning_rate, fused=fused)
    linear = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Linear)}
    groups = [
        {"params": [p for p in module.parameters() if id(p) in linear], "weight_decay": decay},
        {"params": [p for p in module.parameters() if id(p) not in linear], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=fused)
