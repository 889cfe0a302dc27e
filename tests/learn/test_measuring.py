"""The arithmetic of a diagnosis, on cases small enough to work out by hand."""

import math

import numpy as np
import pytest
import torch

from iris_cli.learn.diagnosis import MOVED
from iris_cli.learn.measuring import (
    ImageErrors,
    classifier_figures,
    correlation,
    curve,
    differing,
    discounted_returns,
    dream_starts,
    entropy_of_counts,
    small_things,
    token_figures,
)


def logits_for(classes: list[int], number: int) -> torch.Tensor:
    """Probability 0.8 for these classes, the rest shared by the others."""
    probabilities = torch.full((len(classes), number), 0.2 / (number - 1))
    probabilities[range(len(classes)), classes] = 0.8
    return probabilities.log()


def test_precision_recall_and_f1_are_counted_by_class() -> None:
    truth = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1, 2])
    said = [0, 1, 1, 1, 1, 1, 0, 0, 0, 1]

    figures = classifier_figures(logits_for(said, 3), truth, ("-1", "0", "+1"))

    minus, zero, plus = (figures.classes[name] for name in ("-1", "0", "+1"))
    assert (minus.count, minus.predicted) == (3, 4)
    assert (minus.precision, minus.recall) == (pytest.approx(1 / 4), pytest.approx(1 / 3))
    assert minus.f1 == pytest.approx(2 / 7)
    assert (zero.precision, zero.recall, zero.f1) == (pytest.approx(1 / 2), pytest.approx(1 / 2), pytest.approx(1 / 2))
    assert (plus.count, plus.predicted, plus.precision, plus.recall, plus.f1) == (1, 0, None, 0.0, 0.0)
    assert figures.accuracy == pytest.approx(0.4)
    assert figures.most_frequent == pytest.approx(0.6)
    assert figures.cross_entropy == pytest.approx(-(0.4 * math.log(0.8) + 0.6 * math.log(0.1)))
    assert plus.mean_probability == pytest.approx(0.1)
    assert minus.mean_probability == pytest.approx(0.4 * 0.8 + 0.6 * 0.1)


def test_a_class_that_is_nowhere_has_no_score() -> None:
    figures = classifier_figures(logits_for([0, 0], 2), torch.tensor([0, 0]), ("goes on", "ends"))

    assert (figures.classes["ends"].recall, figures.classes["ends"].f1) == (None, None)


def test_a_pixel_moves_when_any_channel_does_by_more_than_the_threshold() -> None:
    before = torch.full((1, 3, 1, 3), 100, dtype=torch.uint8)
    after = before.clone()
    after[0, 2, 0, 0] -= MOVED + 1
    after[0, 1, 0, 1] += MOVED

    assert differing(after, before).tolist() == [[[True, False, False]]]


def test_image_errors_are_means_over_pixels_and_over_those_that_move() -> None:
    errors = ImageErrors()
    real = torch.zeros(2, 3, 2, 2)
    images, moving = real.clone(), torch.zeros(2, 2, 2, dtype=torch.bool)
    images[0, :, 0, 0] = 0.5
    images[1, 0, 1, 1] = 0.3
    moving[0, 0, 0] = moving[0, 0, 1] = True
    errors.add(images[:1], real[:1], moving[:1])
    errors.add(images[1:], real[1:], moving[1:])

    figures = errors.figures()

    assert figures.absolute == pytest.approx((3 * 0.5 + 0.3) / 24)
    assert figures.squared == pytest.approx((3 * 0.25 + 0.09) / 24)
    assert figures.psnr == pytest.approx(-10 * math.log10(figures.squared))
    assert figures.moving_absolute == pytest.approx(0.25)
    assert figures.moving_squared == pytest.approx(0.125)


def test_perfect_images_have_no_psnr_and_still_ones_no_moving_error() -> None:
    errors = ImageErrors()
    errors.add(torch.ones(1, 3, 2, 2), torch.ones(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool))

    assert (errors.figures().absolute, errors.figures().psnr, errors.figures().moving_absolute) == (0.0, None, None)


def test_small_things_are_those_with_little_around_them() -> None:
    things = torch.zeros(1, 64, 64, dtype=torch.bool)
    things[0, 5:8, 5:8] = True  # a ball
    things[0, 0, 63] = True  # at the border, where less lies around
    things[0, 30:34, 30:33] = True  # a paddle

    small = small_things(things)

    assert small[0, 5:8, 5:8].all()
    assert small[0, 0, 63]
    assert int(small.sum()) == 10


def test_tokens_are_scored_as_predicted_and_against_copying() -> None:
    tokens = torch.tensor([[1, 2], [1, 3], [4, 3], [0, 0]])  # two segments: three frames, and one
    firsts = torch.tensor([True, False, False, True])
    guesses = torch.tensor([[9, 2], [1, 2], [4, 3], [0, 1]])  # a segment's very first does not count, right or wrong
    costs = torch.tensor([[100.0, 1], [2, 3], [4, 5], [100, 6]])

    figures = token_figures(tokens, costs, guesses, firsts, codes=8)

    assert figures.tokens == 6
    assert figures.cross_entropy == pytest.approx(21 / 6)
    assert figures.cross_entropy_share == pytest.approx(21 / 6 / math.log(8))
    assert figures.accuracy == pytest.approx(4 / 6)
    assert figures.next_accuracy == pytest.approx(3 / 4)
    assert figures.copy_accuracy == pytest.approx(2 / 4)
    assert figures.next_cross_entropy == pytest.approx(14 / 4)
    assert (figures.changed, figures.changed_accuracy, figures.changed_cross_entropy) == (2, 0.5, 3.5)
    assert figures.position_cross_entropy == [3.0, 4.0]
    assert figures.position_accuracy == [1.0, 0.5]
    assert figures.position_copy_accuracy == [0.5, 0.5]
    counts = torch.tensor([2, 2, 1, 2, 1])
    assert figures.unigram_entropy == pytest.approx(-sum(float(n / 8 * math.log(n / 8)) for n in counts))


def test_frames_that_nothing_precedes_leave_copying_unknown() -> None:
    figures = token_figures(
        torch.tensor([[1, 2]]), torch.ones(1, 2), torch.tensor([[1, 2]]), torch.tensor([True]), codes=4
    )

    assert (figures.next_accuracy, figures.copy_accuracy, figures.changed_accuracy) == (None, None, None)
    assert figures.position_accuracy == []
    assert figures.accuracy == 1.0


def test_perplexity_counts_codes_that_are_used_alike() -> None:
    assert math.exp(entropy_of_counts(torch.tensor([5, 0, 5, 5, 5]))) == pytest.approx(4)
    assert entropy_of_counts(torch.tensor([0, 7])) == 0


def test_curves_have_a_mean_for_each_step_and_none_where_nothing_differs() -> None:
    real = torch.zeros(2, 2, 3, 2, 2)
    images, moved = real.clone(), torch.zeros(2, 2, 2, 2, dtype=torch.bool)
    images[0, 1, :, 0, 0] = 0.4
    moved[0, 1, 0] = True

    found = curve(images, real, moved)

    assert found.error == pytest.approx([0, 0.4 / 8])
    assert found.moving[0] is None
    assert found.moving[1] == pytest.approx(0.2)


def test_dreams_start_where_there_is_enough_before_and_behind() -> None:
    draws = np.random.default_rng(0)

    starts = dream_starts([5, 2, 9, 7], before=2, after=3, most=50, generator=draws)

    assert starts == [(2, 2), (2, 3), (2, 4), (2, 5), (3, 2), (3, 3)]
    assert dream_starts([5, 5], before=2, after=3, most=50, generator=draws) == []
    some = dream_starts([5, 2, 9, 7], before=2, after=3, most=3, generator=draws)
    assert len(set(some)) == 3
    assert set(some) <= set(starts)


def test_returns_are_discounted_from_the_end() -> None:
    assert discounted_returns(np.array([1.0, 0.0, -1.0]), 0.5).tolist() == [0.75, -0.5, -1.0]


def test_what_does_not_vary_correlates_with_nothing() -> None:
    rising = np.arange(4.0)

    assert correlation(rising, np.ones(4)) is None
    assert correlation(rising[:1], rising[:1]) is None
    assert correlation(rising, -2 * rising) == pytest.approx(-1)
