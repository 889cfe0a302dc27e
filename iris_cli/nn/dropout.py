"""Dropout that does not wait for random numbers on a CPU."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iris_cli.nn import data_parallel

_LEVELS = 2**16  # of a draw: a quarter of a 64-bit random number


class Dropout(nn.Dropout):
    """As `nn.Dropout`, with the probability rounded to 1 / 65,536 on a CPU, where four draws share a random number."""

    def forward(self, x: Tensor) -> Tensor:
        """Zero entries of x at random, in training mode, and scale up the others."""
        return dropout(x, self.p) if self.training else x


class SharedDropout(nn.Dropout):
    """`nn.Dropout`, bit for bit; on a CPU, processes that share a batch drop together what one of them would alone."""

    def forward(self, x: Tensor) -> Tensor:
        """Zero entries of x, the batch's rows first, at random, in training mode, and scale up the others."""
        share = data_parallel.current()
        if not self.training or self.p == 0 or x.device.type != "cpu" or share.portion == 1:
            return super().forward(x)
        mine, whole = share.place(x.numel())
        return x * F.dropout(x.new_ones(whole), self.p)[mine].view(x.shape)


def dropout(x: Tensor, probability: float) -> Tensor:
    """Zero entries of x at random, with torch's global generator, and scale up the others.

    Processes that share a batch drop on a CPU what one of them would alone; x then has the batch's rows first.
    """
    if x.device.type != "cpu" or not 0 < probability < 1:
        return F.dropout(x, probability)
    dropped = round(probability * _LEVELS)
    mine, whole = data_parallel.current().place(x.numel())
    draws = torch.empty((whole + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    keep = draws.view(torch.int16)[mine].view(x.shape) >= dropped - _LEVELS // 2
    return x * keep * (_LEVELS / (_LEVELS - dropped))
