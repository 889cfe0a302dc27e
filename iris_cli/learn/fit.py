"""The one optimizer loop. Knows neither agents nor stages: it is handed losses and tells of means."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from iris_cli.errors import TrainingError
from iris_cli.learn.losses import Losses


class Part(NamedTuple):
    """The loss of a share of the batch; the shares of one update sum to 1."""

    losses: Losses
    share: float


class Means:
    """Running means of metrics, summed on the device and read on the host once per report."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._updates = 0

    def add(self, metrics: dict[str, Tensor], share: float) -> None:
        """Add metrics () of a share of one update."""
        for name, value in metrics.items():
            value = value.detach() * share
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def count(self) -> None:
        """One update is complete."""
        self._updates += 1

    def read(self) -> dict[str, float]:
        """Means since the last read. One transfer from the device."""
        if not self._sums:
            return {}
        values = (torch.stack([value.float() for value in self._sums.values()]) / max(self._updates, 1)).tolist()
        means = dict(zip(self._sums, values, strict=True))
        self._sums, self._updates = {}, 0
        return means


def fit(
    compute: Callable[[], Iterable[Part]],
    parameters: Iterable[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    *,
    start: int,
    updates: int,
    clip_norm: float,
    after_update: Callable[[], None],
    report_every: int,
    on_report: Callable[[int, dict[str, float]], None],
    keep_going: Callable[[int], bool],
) -> int:
    """Minimise a loss, one optimizer step per update.

    Args:
        compute: draws a batch and yields the losses of its shares, each differentiated before the next is computed.
        parameters: those that the gradient's norm is taken over, and clipped.
        start, updates: updates already done, and the number to reach.
        clip_norm: largest global L2 norm of the gradient.
        after_update: called after each optimizer step (the codebook's moving averages, for one).
        report_every: updates between two calls of `on_report(updates done, means since the last)`.
        keep_going: called after each update with the number done; False stops.

    Returns:
        The number of updates done in all.

    Raises:
        TrainingError: if a mean that is reported is not finite.
    """
    parameters, means, done = list(parameters), Means(), start
    while done < updates:
        optimizer.zero_grad(set_to_none=True)
        for part in compute():
            (part.losses.total * part.share).backward()
            means.add({"total_loss": part.losses.total, **part.losses.parts}, part.share)
        norm = nn.utils.clip_grad_norm_(parameters, clip_norm)
        means.add({"gradient_norm": norm}, 1.0)
        means.count()
        optimizer.step()
        after_update()
        done += 1
        if done % report_every == 0 or done == updates:
            on_report(done, _finite(means.read(), done))
        if not keep_going(done):
            break
    return done


def _finite(means: dict[str, float], update: int) -> dict[str, float]:
    for name, value in means.items():
        if not math.isfinite(value):
            raise TrainingError(
                f"{name} became {value} by update {update}",
                fix="The last checkpoint is untouched; continue from it with a smaller learning rate.",
            )
    return means
