"""What a component's loss returns: the number to differentiate, and its parts to read. Means over shares of a batch."""

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


def share_of_mean(mean: Tensor, real: Tensor, among: Tensor | None) -> Tensor:
    """From a mean over the real entries of a share of a batch to what the share adds to the mean over the batch's.

    The weighted sum of these, each weighted by its share of the rows, is the mean over all real entries: rows may have
    more of them or fewer.

    Args:
        mean: () over the real entries of the share, 0 where it has none.
        real: (b, ...) bool, of the share.
        among: (B, ...) bool, of the whole batch; None: the share is all of it.
    """
    if among is None:
        return mean
    expected = among.sum().clamp_min(1) * (len(real) / len(among))
    return mean * (real.sum().clamp_min(1) / expected)
