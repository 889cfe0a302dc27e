"""Looks at the numbers of every optimizer step before it is taken: a step that is not finite never changes a weight."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from iris_cli.errors import TrainingError

WATCHED = ("total_loss", "gradient_norm")  # for growth; every metric is watched for being finite
GROWTH = 1e3  # times the usual value, or 1 where that is smaller
RECENT = 10  # steps whose median is compared, so that no single step, however wild, is called a divergence
ENOUGH, WINDOW = 5, 100  # such medians: needed before anything is usual, and kept


class NotFinite(TrainingError):
    """A step came out as nan or infinite, and was not taken.

    Attributes:
        cause: the metric that tells most: a part of the loss, else the total, else the gradient's norm.
        update: its number.
        batch: what it was computed on.
        metrics: of that step.
    """

    def __init__(self, update: int, batch: Any, metrics: dict[str, float]) -> None:
        broken = [name for name, value in metrics.items() if not math.isfinite(value)]
        self.cause = min(broken, key=lambda name: name in WATCHED)
        self.update, self.batch, self.metrics = update, batch, metrics
        super().__init__(f"{self.cause} became {metrics[self.cause]} at update {update}")


@dataclass(frozen=True)
class Growth:
    """A metric that has left what was usual, though it is still finite."""

    update: int
    name: str
    usual: float  # median of the last 1,000 steps
    now: float  # median of the last 10


class Watch:
    """Judges steps: at once, or each while the next one is under way.

    A metric has grown, and is told of once, when the median of its last 10 absolute values exceeds a thousand times
    the median of those before (at least 50 steps), and a thousand: the losses and norms of healthy training lie below.
    What is usual is forgotten with this object: a stage that goes on after a stop learns it anew.

    Args:
        lagging: for CUDA, where reading a number at once would wait for the device. A step's numbers are then read
            when the next one has been computed; `look` tells on the device whether the step may be taken.
        on_growth: told of a metric that has grown.
    """

    def __init__(self, *, lagging: bool, on_growth: Callable[[Growth], None]) -> None:
        self._lagging, self._on_growth = lagging, on_growth
        self._pending: _Step | None = None
        self._usual = {name: _Usual() for name in WATCHED}

    def look(self, update: int, batch: Any, metrics: dict[str, Tensor]) -> Tensor | None:
        """Judge a step that is about to be taken.

        Args:
            update: its number.
            batch: what it was computed on; kept by reference until it is judged.
            metrics: () tensors.

        Returns:
            () bool on the device, whether all metrics are finite, if `lagging`; else None, for they are.

        Raises:
            NotFinite: for this step, or for the one before if `lagging`.
        """
        values = torch.stack([value.detach().float() for value in metrics.values()])
        step = _Step(update, batch, list(metrics), values)
        if not self._lagging:
            self._judge(step)
            return None
        self.settle()
        self._pending = step
        return values.isfinite().all()

    def settle(self) -> None:
        """Judge what was looked at and not yet judged. Call it before anything is kept.

        Raises:
            NotFinite: if it was not finite.
        """
        if self._pending is not None:
            step, self._pending = self._pending, None
            self._judge(step)

    def _judge(self, step: "_Step") -> None:
        metrics = step.read()
        if not all(map(math.isfinite, metrics.values())):
            raise NotFinite(step.update, step.batch, metrics)
        for name, usual in list(self._usual.items()):
            grown = usual.exceeded_by(abs(metrics[name])) if name in metrics else None
            if grown is not None:
                del self._usual[name]
                self._on_growth(Growth(step.update, name, *grown))


class _Step:
    """A step's numbers on their way to the host."""

    def __init__(self, update: int, batch: Any, names: list[str], values: Tensor) -> None:
        self.update, self.batch, self._names = update, batch, names
        self._values, self._arrived = values, None
        if values.is_cuda:
            self._values = values.to("cpu", non_blocking=True)
            self._arrived = torch.cuda.current_stream(values.device).record_event()

    def read(self) -> dict[str, float]:
        """The metrics; waits for them if they have not arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return dict(zip(self._names, self._values.tolist(), strict=True))


class _Usual:
    """What size a metric usually has: the median of medians over 10 steps each."""

    def __init__(self) -> None:
        self._recent: list[float] = []
        self._before: deque[float] = deque(maxlen=WINDOW)

    def exceeded_by(self, value: float) -> tuple[float, float] | None:
        """Note a value; what is usual and what is now, if the latter is beyond all measure."""
        self._recent.append(value)
        if len(self._recent) < RECENT:
            return None
        now, self._recent = median(self._recent), []
        usual = median(self._before) if len(self._before) >= ENOUGH else math.inf
        self._before.append(now)
        return (usual, now) if now > GROWTH * max(usual, 1.0) else None
