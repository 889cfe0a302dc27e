"""What a component's loss returns: the number to differentiate, and its parts to read."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Losses:
    """A loss and its parts.

    Attributes:
        total: () float32, with gradient.
        parts: name -> () tensors without gradient, on the training device: the terms of `total` and what else
            is worth a curve. Never read on the host inside a hot path; `fit` reads them once per report.
    """

    total: Tensor
    parts: dict[str, Tensor]
