from collections.abc import Iterator

import pytest
import torch
from torch import nn

from iris_cli.learn.fit import Learner, Means, Part, fit
from iris_cli.learn.losses import Losses
from iris_cli.learn.optimizers import make_optimizer
from iris_cli.learn.watch import Growth, Watch


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
        self.drawn = 0
        self.steps = 1
        self.growths: list[Growth] = []
        self.watch = Watch(lagging=False, on_growth=self.growths.append)

    def draw(self) -> torch.Tensor:
        self.drawn += 1
        return self.inputs

    def losses(self, inputs: torch.Tensor) -> Iterator[Iterator[Part]]:
        for _ in range(self.steps):
            yield (self.part(share) for share in inputs.chunk(self.shares))

    def part(self, share: torch.Tensor) -> Part:
        error = (self.layer(share) - share.sum(1, keepdim=True)).square().mean() * self.scale
        return Part(Losses(error, {"twice": 2 * error.detach()}), len(share) / len(self.inputs))

    def keep_going(self, done: int) -> bool:
        self.seen.append(done)
        return done != self.stop_after

    def count(self) -> None:
        self.after += 1

    def fit(self, *, start: int = 0, updates: int, clip_norm: float = 1e6, report_every: int = 2) -> int:
        return fit(
            self.draw, self.losses, [Learner(list(self.layer.parameters()), self.optimizer, clip_norm)],
            watch=self.watch, start=start, updates=updates, after_update=self.count, report_every=report_every,
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


def test_an_update_of_several_steps_is_drawn_and_counted_once() -> None:
    single, several = Recorder(), Recorder()
    several.steps = 3

    single.fit(updates=6)
    several.fit(updates=2)

    assert (several.drawn, several.after, several.seen) == (2, 2, [1, 2])
    assert torch.equal(single.layer.weight, several.layer.weight)  # each step saw what the one before had changed
    assert several.reports[-1][1]["total_loss"] == pytest.approx(
        sum(means["total_loss"] for _, means in single.reports) / 3
    )


def test_learners_are_clipped_apart_and_all_learn() -> None:
    line, other = Recorder(learning_rate=1.0), nn.Parameter(torch.ones(()))
    besides = Learner([other], torch.optim.SGD([other], lr=1.0), 0.25, "gradient_norm_other")

    def losses(inputs: torch.Tensor) -> list[list[Part]]:
        return [[line.part(inputs), Part(Losses(1000 * other, {}), 1.0)]]

    before = line.layer.weight.detach().clone(), line.layer.bias.detach().clone()
    fit(
        line.draw, losses, [Learner(list(line.layer.parameters()), line.optimizer, 0.5), besides], watch=line.watch,
        start=0, updates=1, after_update=line.count, report_every=1, keep_going=line.keep_going,
        on_report=lambda done, means: line.reports.append((done, means)),
    )  # fmt: skip

    assert other.item() == pytest.approx(0.75)
    moved = torch.cat([(line.layer.weight - before[0]).flatten(), line.layer.bias - before[1]])
    assert moved.norm().item() == pytest.approx(0.5, rel=1e-4)
    assert line.reports[0][1]["gradient_norm_other"] == 1000
    assert line.reports[0][1]["gradient_norm"] < 100


def test_nothing_is_done_where_nothing_is_left() -> None:
    line = Recorder()

    assert line.fit(start=5, updates=5) == 5
    assert line.seen == []


def test_means_are_of_the_steps_that_have_a_metric_and_start_anew() -> None:
    means = Means()
    means.add({"x": torch.tensor(1.0), "seldom": torch.tensor(7.0)})
    means.add({"x": torch.tensor(3.0)})

    assert means.read() == {"x": 2.0, "seldom": 7.0}
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


def test_a_learner_that_a_step_does_not_reach_sits_it_out_and_a_shared_optimizer_steps_once() -> None:
    """Momentum would move a weight without a gradient, and a second step would move one twice as far."""
    first, second, third = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    shared = torch.optim.SGD([first, second], lr=1.0)
    other = torch.optim.Adam([third], lr=1.0)
    learners = [
        Learner([first], shared, 1e6, "norm_first"), Learner([second], shared, 1e6, "norm_second"),
        Learner([third], other, 1e6, "norm_third"),
    ]  # fmt: skip
    reports: list[dict[str, float]] = []

    def losses(_: None) -> Iterator[list[Part]]:
        yield [Part(Losses(3 * first.sum() + 4 * second.sum(), {}), 1.0)]
        yield [Part(Losses(5 * third.sum(), {}), 1.0)]

    fit(
        lambda: None, losses, learners, watch=Watch(lagging=False, on_growth=print), start=0, updates=1,
        after_update=lambda: None, report_every=1, on_report=lambda done, means: reports.append(means),
        keep_going=lambda done: True,
    )  # fmt: skip

    assert [first.item(), second.item()] == [-3.0, -4.0]
    assert third.item() == pytest.approx(-1.0)
    assert other.state[third]["step"] == 1
    assert [reports[0][learner.metric] for learner in learners] == [3.0, 4.0, 5.0]
