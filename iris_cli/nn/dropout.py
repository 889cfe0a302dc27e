"""Dropout that does not wait for random numbers on a CPU."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LEVELS = 2**16  # of a draw: a quarter of a 64-bit random number


class Dropout(nn.Dropout):
    """As `nn.Dropout`, with the probability rounded to 1 / 65,536 on a CPU, where four draws share a random number."""

    def forward(self, x: Tensor) -> Tensor:
        """Zero entries of x at random, in training mode, and scale up the others."""
        return dropout(x, self.p) if self.training else x


def dropout(x: Tensor, probability: float) -> Tensor:
    """Zero entries of x at random, with torch's global generator, and scale up the others."""
    if x.device.type != "cpu" or not 0 < probability < 1:
        return F.dropout(x, probability)
    dropped = round(probability * _LEVELS)
    draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    keep = draws.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - _LEVELS // 2
    return x * keep * (_LEVELS / (_LEVELS - dropped))
