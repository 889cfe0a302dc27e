"""Steps that are not finite change nothing, at once and lagging as on CUDA; growth is told of when it is real."""

import math
from collections.abc import Iterator
from itertools import count

import pytest
import torch
from torch import Tensor, nn

from iris_cli.learn.fit import Learner, Part, fit
from iris_cli.learn.losses import Losses
from iris_cli.learn.watch import ENOUGH, RECENT, Growth, NotFinite, Watch

NAN, INF = math.nan, math.inf


class Line:
    """Fits a line; the batch of update number `bad` holds an inf. Fused, as optimizers are on CUDA."""

    def __init__(self, *, lagging: bool, bad: int = 0, stop_after: int = 0) -> None:
        torch.manual_seed(0)
        self.stop_after = stop_after
        self.layer, self.bad, self.numbers = nn.Linear(3, 1), bad, count(1)
        self.optimizer = torch.optim.Adam(self.layer.parameters(), lr=0.1, fused=True)
        self.watch = Watch(lagging=lagging, on_growth=lambda growth: None)
        self.weights: list[Tensor] = []  # after each update
        self.reports: list[int] = []

    def draw(self) -> Tensor:
        number = next(self.numbers)
        inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))
        return inputs.index_fill(0, torch.tensor([0]), INF) if number == self.bad else inputs

    def losses(self, inputs: Tensor) -> Iterator[list[Part]]:
        loss = (self.layer(inputs) - 1).square().mean()
        yield [Part(Losses(loss, {"loss_line": loss.detach(), "always_fine": torch.zeros(())}), 1.0)]

    def keep_going(self, done: int) -> bool:
        self.weights.append(self.layer.weight.detach().clone())
        return done != self.stop_after

    def fit(self, updates: int) -> None:
        fit(
            self.draw, self.losses, [Learner(list(self.layer.parameters()), self.optimizer, 10.0)], watch=self.watch,
            start=0, updates=updates, after_update=lambda: None, report_every=100,
            on_report=lambda done, means: self.reports.append(done), keep_going=self.keep_going,
        )  # fmt: skip


@pytest.mark.parametrize("lagging", [False, True])
@pytest.mark.parametrize("bad", [1, 3, 5])
def test_a_step_that_is_not_finite_is_named_and_not_taken(lagging: bool, bad: int) -> None:
    line, healthy = Line(lagging=lagging, bad=bad), Line(lagging=False)
    untouched = line.layer.weight.detach().clone()
    healthy.fit(5)

    with pytest.raises(NotFinite, match=f"loss_line became (inf|nan) at update {bad}") as caught:
        line.fit(5)

    assert torch.equal(line.layer.weight, healthy.weights[bad - 2] if bad > 1 else untouched)
    assert {state["step"].item() for state in line.optimizer.state.values()} <= {bad - 1}
    assert caught.value.update == bad
    assert caught.value.batch.isinf().any()
    assert caught.value.metrics["always_fine"] == 0
    assert line.reports == []  # the last update of all, too, is judged before it is reported


def test_the_last_step_before_a_stop_is_judged_too() -> None:
    with pytest.raises(NotFinite, match="at update 2"):
        Line(lagging=True, bad=2, stop_after=2).fit(5)


def test_lagging_learns_the_same() -> None:
    at_once, lagging = Line(lagging=False), Line(lagging=True)

    at_once.fit(4)
    lagging.fit(4)

    assert torch.equal(at_once.layer.weight, lagging.layer.weight)
    assert lagging.reports == [4]


def test_lagging_judges_a_step_only_when_the_next_was_computed() -> None:
    watch = Watch(lagging=True, on_growth=lambda growth: None)

    finite = watch.look(1, "first", {"loss": torch.tensor(NAN)})

    assert finite is not None
    assert not finite
    with pytest.raises(NotFinite) as caught:
        watch.look(2, "second", {"loss": torch.tensor(1.0)})
    assert (caught.value.update, caught.value.batch) == (1, "first")
    watch.settle()  # told once


@pytest.mark.parametrize(
    ("metrics", "cause"),
    [
        ({"total_loss": NAN, "loss_a": 1.0, "loss_b": NAN, "gradient_norm": NAN}, "loss_b"),
        ({"total_loss": INF, "loss_a": 1.0, "gradient_norm": NAN}, "total_loss"),
        ({"total_loss": 1.0, "loss_a": 1.0, "gradient_norm": INF}, "gradient_norm"),
    ],
)
def test_the_cause_is_the_part_that_tells_most(metrics: dict[str, float], cause: str) -> None:
    with pytest.raises(NotFinite) as caught:
        Watch(lagging=False, on_growth=lambda growth: None).look(
            1, None, {name: torch.tensor(value) for name, value in metrics.items()}
        )

    assert caught.value.cause == cause


def growths(losses: list[float]) -> list[Growth]:
    told: list[Growth] = []
    watch = Watch(lagging=False, on_growth=told.append)
    for update, loss in enumerate(losses, 1):
        watch.look(update, None, {"total_loss": torch.tensor(loss), "gradient_norm": torch.tensor(1.0)})
    return told


USUAL = [-2.0, 2.0] * (RECENT * ENOUGH // 2)


def test_growth_beyond_all_measure_is_told_once() -> None:
    told = growths(USUAL + [1e4] * 40)

    assert told == [Growth(update=len(USUAL) + RECENT, name="total_loss", usual=2.0, now=1e4)]


def test_slow_growth_is_told_too() -> None:
    told = growths([1.03**update for update in range(600)])

    assert len(told) == 1
    assert told[0].now > 1000 * told[0].usual


@pytest.mark.parametrize(
    "losses",
    [
        USUAL + ([1e9] * 4 + [2.0] * 6) * 5,  # wild single batches
        [1e-6] * 100 + [500.0] * 100,  # the first reward is found
        [1e6] * 20 + [1.0] * 100,  # the first updates of all
        [1e5] * 200,  # large, but as always
    ],
)
def test_healthy_training_is_left_alone(losses: list[float]) -> None:
    assert growths(losses) == []
