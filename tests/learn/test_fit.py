from collections.abc import Iterator

import pytest
import torch
from torch import nn

from iris_cli.errors import TrainingError
from iris_cli.learn.fit import Means, Part, fit
from iris_cli.learn.losses import Losses
from iris_cli.learn.optimizers import make_optimizer


class Recorder:
    """Fits a linear layer to a line, and remembers what `fit` told."""

    def __init__(self, *, shares: int = 1, learning_rate: float = 0.1, stop_after: int | None = None) -> None:
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 1)
        self.inputs = torch.randn(8, 3)
        self.optimizer = torch.optim.SGD(self.layer.parameters(), lr=learning_rate)
        self.shares, self.stop_after, self.scale = shares, stop_after, 1.0
        self.reports: list[tuple[int, dict[str, float]]] = []
        self.after = 0
        self.seen: list[int] = []

    def compute(self) -> Iterator[Part]:
        for share in self.inputs.chunk(self.shares):
            error = (self.layer(share) - share.sum(1, keepdim=True)).square().mean() * self.scale
            yield Part(Losses(error, {"twice": 2 * error.detach()}), len(share) / len(self.inputs))

    def keep_going(self, done: int) -> bool:
        self.seen.append(done)
        return done != self.stop_after

    def count(self) -> None:
        self.after += 1

    def fit(self, *, start: int = 0, updates: int, clip_norm: float = 1e6, report_every: int = 2) -> int:
        return fit(
            self.compute, self.layer.parameters(), self.optimizer, start=start, updates=updates, clip_norm=clip_norm,
            after_update=self.count, report_every=report_every,
            on_report=lambda done, means: self.reports.append((done, means)), keep_going=self.keep_going,
        )  # fmt: skip


def test_the_loss_falls() -> None:
    line = Recorder()

    line.fit(updates=50, report_every=10)

    losses = [means["total_loss"] for _, means in line.reports]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] / 5


def test_shares_of_a_batch_give_the_gradient_of_the_whole() -> None:
    whole, parts = Recorder(shares=1), Recorder(shares=4)

    whole.fit(updates=3)
    parts.fit(updates=3)

    torch.testing.assert_close(whole.layer.weight, parts.layer.weight)
    for name, value in whole.reports[-1][1].items():
        assert parts.reports[-1][1][name] == pytest.approx(value, rel=1e-5)


def test_reports_are_means_since_the_last_and_come_at_the_end_too() -> None:
    line = Recorder(learning_rate=0.0)

    line.fit(updates=5, report_every=2)

    assert [done for done, _ in line.reports] == [2, 4, 5]
    first, _, last = (means for _, means in line.reports)
    assert first == pytest.approx(last)
    assert first["twice"] == pytest.approx(2 * first["total_loss"])
    assert first["gradient_norm"] > 0


def test_the_gradient_is_clipped_to_its_norm_and_reported_as_it_was() -> None:
    line = Recorder(learning_rate=1.0)
    line.scale = 1000.0
    before = [parameter.detach().clone() for parameter in line.layer.parameters()]

    line.fit(updates=1, clip_norm=0.5)

    moved = [new.detach() - old for new, old in zip(line.layer.parameters(), before, strict=True)]
    assert torch.cat([part.flatten() for part in moved]).norm().item() == pytest.approx(0.5, rel=1e-4)
    assert line.reports[0][1]["gradient_norm"] > 100


def test_it_goes_on_from_where_it_stood() -> None:
    straight, halves = Recorder(), Recorder()

    straight.fit(updates=4)
    halves.fit(updates=2)
    done = halves.fit(start=2, updates=4)

    assert done == 4
    assert halves.seen == [1, 2, 3, 4]
    assert torch.equal(straight.layer.weight, halves.layer.weight)


def test_it_stops_when_asked_to() -> None:
    line = Recorder(stop_after=3)

    assert line.fit(updates=10) == 3
    assert line.after == 3


def test_nothing_is_done_where_nothing_is_left() -> None:
    line = Recorder()

    assert line.fit(start=5, updates=5) == 5
    assert line.seen == []


def test_a_loss_that_is_not_finite_is_an_error_that_names_it() -> None:
    line = Recorder()
    line.scale = float("nan")

    with pytest.raises(TrainingError, match="total_loss became nan by update 2"):
        line.fit(updates=10, report_every=2)


def test_means_weigh_shares_and_start_anew() -> None:
    means = Means()
    for value in (1.0, 3.0):
        means.add({"x": torch.tensor(value)}, 0.25)
        means.add({"x": torch.tensor(value + 4)}, 0.75)
        means.count()

    assert means.read() == {"x": 5.0}
    assert means.read() == {}


class Decayed:
    learning_rate = 1e-3
    weight_decay = 0.01


class Plain:
    learning_rate = 1e-3


def test_only_the_weights_of_linear_layers_decay() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Embedding(3, 2), nn.Conv2d(1, 1, 1))

    optimizer = make_optimizer(module, Decayed())

    decaying, others = optimizer.param_groups
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [id(parameter) for parameter in decaying["params"]] == [id(module[0].weight)]
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.01, 0.0)
    assert len(others["params"]) == len(list(module.parameters())) - 1


def test_without_decay_it_is_adam() -> None:
    optimizer = make_optimizer(nn.Linear(2, 2), Plain())

    assert type(optimizer) is torch.optim.Adam
    assert optimizer.param_groups[0]["lr"] == 1e-3
