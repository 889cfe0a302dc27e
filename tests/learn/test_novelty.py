"""The bonus for novel views: what it is measured by, what it learns from, and that it fades where it should."""

import pytest
import torch
from torch import Tensor

from iris_cli.learn.actor_critic import Rollout
from iris_cli.learn.novelty import Moments, Novelty


def rollout_of(views: Tensor) -> Rollout:
    """A rollout that looked at views (B, H + 1, 3, 64, 64)."""
    batch, steps = len(views), views.shape[1] - 1
    zeros = torch.zeros(batch, steps)
    return Rollout(zeros[..., None], zeros.long(), zeros, zeros, zeros.bool(), zeros[:, 0], views)


def views_of(*greys: float) -> Tensor:
    """(2, H + 1, 3, 64, 64), a square of each grey, that varies a little from row to row."""
    views = torch.full((2, len(greys), 3, 64, 64), 0.5)
    for t, grey in enumerate(greys):
        views[0, t, :, 10:30, 10:30] = grey
        views[1, t, :, 12:32, 10:30] = grey
    return views


def learned(of: str, views: Tensor, updates: int) -> tuple[Novelty, list[Tensor]]:
    """A novelty that learned from a rollout, and its bonuses each time."""
    torch.manual_seed(0)
    novelty = Novelty(32, of=of)
    optimizer = torch.optim.Adam(novelty.parameters(), lr=1e-3)
    given = []
    for _ in range(updates):
        optimizer.zero_grad()
        bonuses, losses = novelty(rollout_of(views), gamma=0.9)
        losses.total.backward()
        optimizer.step()
        given.append(bonuses)
    return novelty, given


def test_moments_are_those_of_all_values_however_they_came() -> None:
    values = 3 * torch.randn(100, 4, generator=torch.Generator().manual_seed(0)) + 7
    moments = Moments(4)

    for block in values.split([1, 9, 30, 60]):
        moments.note(block)

    torch.testing.assert_close(moments.mean, values.mean(0))
    torch.testing.assert_close(moments.variance, values.var(0, unbiased=False))
    assert moments.count == 100


def test_bonuses_are_one_for_each_step_and_have_no_gradient() -> None:
    bonuses, losses = Novelty(32, of="imagined")(rollout_of(views_of(0.1, 0.4, 0.6, 0.9)), gamma=0.9)

    assert bonuses.shape == (2, 3)
    assert not bonuses.requires_grad
    assert (bonuses > 0).all()
    assert losses.parts["loss_novelty"] == losses.total


def test_what_is_dreamt_again_and_again_becomes_ordinary_if_novel_among_the_imagined() -> None:
    _, given = learned("imagined", views_of(0.1, 0.4, 0.6, 0.9), updates=60)

    assert given[-1].sum() < 0.2 * given[0].sum()


def test_only_what_was_collected_is_ordinary_if_novel_among_that() -> None:
    _, given = learned("collected", views_of(0.5, 0.5, 0.1, 0.9), updates=60)  # the first is real

    assert (given[-1][:, 0] < 0.2 * given[-1][:, 1:].amin(1)).all()


@pytest.mark.parametrize(("of", "reads"), [("imagined", slice(1, None)), ("collected", slice(0, 1))])
def test_it_learns_from_those_views_alone(of: str, reads: slice) -> None:
    torch.manual_seed(0)
    novelty, views = Novelty(32, of=of), torch.rand(2, 4, 3, 64, 64).requires_grad_()

    novelty(rollout_of(views), gamma=0.9)[1].total.backward()

    read = views.grad.flatten(2).abs().sum(2) > 0
    expected = torch.zeros(2, 4, dtype=torch.bool)
    expected[:, reads] = True
    assert torch.equal(read, expected)
    assert novelty.pixels.count == expected.sum()


def test_the_scale_of_the_errors_does_not_matter() -> None:
    views = torch.rand(4, 6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    novelty = Novelty(32, of="imagined")
    twice = Novelty(32, of="imagined")
    twice.load_state_dict(novelty.state_dict())
    for network in (twice.target, twice.predictor):
        network[-1].weight.data *= 10

    torch.testing.assert_close(novelty(rollout_of(views), gamma=0.9)[0], twice(rollout_of(views), gamma=0.9)[0])


def test_the_random_network_stays_as_it_is() -> None:
    torch.manual_seed(0)
    fresh = Novelty(32, of="imagined").state_dict()
    state = learned("imagined", views_of(0.1, 0.9), updates=3)[0].state_dict()

    assert all(torch.equal(fresh[name], state[name]) for name in fresh if name.startswith("target."))
    assert any(not torch.equal(fresh[name], state[name]) for name in fresh if name.startswith("predictor."))
