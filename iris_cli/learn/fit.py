"""The one optimizer loop. Knows neither agents nor stages: it is handed batches and losses, and tells of means.

Where several processes learn as one (nn/data_parallel.py), all take part in every step: the losses that each is handed
are of its share of the batch.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from iris_cli.learn.losses import Losses
from iris_cli.learn.watch import Watch
from iris_cli.nn import data_parallel

B = TypeVar("B")


class Part(NamedTuple):
    """The loss of a share of the batch; the shares of a loss, in all processes, sum to 1 in each optimizer step."""

    losses: Losses
    share: float


Steps = Iterable[Iterable[Part]]  # the optimizer steps of one update, each the parts of its loss


class Learner(NamedTuple):
    """Parameters that learn together.

    Attributes:
        parameters: those that the gradient's norm is taken over, and clipped.
        optimizer: of these, and maybe of other learners'; it takes one step for all of them.
        clip_norm: largest global L2 norm of their gradient.
        metric: what that norm is called.
    """

    parameters: Sequence[nn.Parameter]
    optimizer: torch.optim.Optimizer
    clip_norm: float
    metric: str = "gradient_norm"


def learners_of(
    module: nn.Module, optimizer: torch.optim.Optimizer, clip_norm: float, metric: str = "gradient_norm"
) -> list[Learner]:
    """What learns of a module: all its parameters together, or each group of the optimizer that has a name by itself.

    The norm of a named group is called gradient_norm_NAME.
    """
    named = [group for group in optimizer.param_groups if "name" in group]
    if not named:
        return [Learner(list(module.parameters()), optimizer, clip_norm, metric)]
    return [Learner(group["params"], optimizer, clip_norm, f"gradient_norm_{group['name']}") for group in named]


class Means:
    """Running means of metrics over optimizer steps, summed on the device and read on the host once per report."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Add the metrics () of a step; one that a step lacks is averaged over those that have it."""
        for name, value in metrics.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        """Means since the last read. One transfer from the device."""
        if not self._sums:
            return {}
        sums, counts = torch.stack([value.float() for value in self._sums.values()]), list(self._counts.values())
        means = dict(zip(self._sums, (sums / sums.new_tensor(counts)).tolist(), strict=True))
        self._sums, self._counts = {}, {}
        return means


def fit(
    draw: Callable[[], B],
    losses: Callable[[B], Steps],
    learners: Sequence[Learner],
    *,
    watch: Watch,
    start: int,
    updates: int,
    after_update: Callable[[], None],
    report_every: int,
    on_report: Callable[[int, dict[str, float]], None],
    keep_going: Callable[[int], bool],
) -> int:
    """Minimise a loss, one batch per update, in one optimizer step or several.

    A learner that the losses of a step do not reach, sits that step out.

    Args:
        draw: draws the batch of an update.
        losses: yields the optimizer steps on a batch, mostly one, each as the losses of its shares; every share is
            differentiated before the next is computed, and every step taken before the next begins.
        learners: what learns from them.
        watch: sees every step before it is taken.
        start, updates: updates already done, and the number to reach.
        after_update: called after each update (the codebook's moving averages, for one).
        report_every: updates between two calls of `on_report(updates done, means since the last)`.
        keep_going: called after each update with the number done; False stops. If it keeps anything of what was
            learned, it has to settle the watch first.

    Returns:
        The number of updates done in all.

    Raises:
        NotFinite: at the update whose loss, gradient norm or other metric is not finite; no weight has changed by it.
    """
    means, done = Means(), start
    while done < updates:
        batch = draw()
        for parts in losses(batch):
            metrics = _differentiate(parts, learners)
            finite = watch.look(done + 1, batch, metrics)
            for optimizer in dict.fromkeys(learner.optimizer for learner in learners if _is_reached(learner)):
                _take_step(optimizer, finite)
            means.add(metrics)
        after_update()
        done += 1
        if done % report_every == 0 or done == updates:
            watch.settle()
            on_report(done, means.read())
        if not keep_going(done):
            break
    watch.settle()
    return done


def _differentiate(parts: Iterable[Part], learners: Sequence[Learner]) -> dict[str, Tensor]:
    """Fill and clip the gradients of one optimizer step; its metrics, the gradients' norms among them."""
    for learner in learners:
        learner.optimizer.zero_grad(set_to_none=True)
    metrics: dict[str, Tensor] = {}
    for part in parts:
        (part.losses.total * part.share).backward()
        for name, value in {"total_loss": part.losses.total, **part.losses.parts}.items():
            value = value.detach() * part.share
            metrics[name] = metrics[name] + value if name in metrics else value
    if data_parallel.processes() > 1:
        _add_up(learners, metrics)
    for learner in filter(_is_reached, learners):
        metrics[learner.metric] = nn.utils.clip_grad_norm_(learner.parameters, learner.clip_norm)
    return metrics


def _add_up(learners: Sequence[Learner], metrics: dict[str, Tensor]) -> None:
    """Make gradients and metrics those of the whole batch."""
    values = torch.stack([value.float() for value in metrics.values()])
    parameters = [parameter for learner in learners for parameter in learner.parameters]
    data_parallel.add_up([values, *(parameter.grad for parameter in parameters if parameter.grad is not None)])
    metrics.update(zip(metrics, values.unbind(), strict=True))


def _is_reached(learner: Learner) -> bool:
    return any(parameter.grad is not None for parameter in learner.parameters)


def _take_step(optimizer: torch.optim.Optimizer, finite: Tensor | None) -> None:
    """Take a step; where `finite` is given and false, a fused optimizer does nothing, without asking the host."""
    if finite is not None:
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]  # as torch.amp.GradScaler tells it
    optimizer.step()
