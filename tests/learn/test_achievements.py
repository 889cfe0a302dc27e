"""Success rates and the score of the Crafter benchmark."""

import numpy as np
import pytest

from iris_cli.errors import ShapeError
from iris_cli.learn.achievements import achievement_score, in_words, summarise


def test_the_score_is_the_geometric_mean_of_success_rates_in_percent() -> None:
    assert achievement_score([0, 0, 0]) == 0
    assert achievement_score([100, 100]) == pytest.approx(100)
    assert achievement_score([100, 0]) == pytest.approx(101**0.5 - 1)  # 9.05, not 50
    rates = np.array([3.0, 50.0, 0.1])
    assert achievement_score(rates) == pytest.approx(np.exp(np.mean(np.log(1 + rates))) - 1)


@pytest.mark.parametrize("rates", [[], [-1.0], [101.0], [np.nan]])
def test_what_is_no_percentage_is_refused(rates: list[float]) -> None:
    with pytest.raises(ShapeError):
        achievement_score(rates)


def test_episodes_are_counted_once_for_each_achievement() -> None:
    unlocked = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]], bool)

    found = summarise(["a", "b", "c"], unlocked)

    assert found is not None
    assert found.success_rates == {"a": 75.0, "b": 25.0, "c": 0.0}
    assert (found.episodes, found.unlocked) == (4, 1.0)
    assert found.score == pytest.approx((76 * 26) ** (1 / 3) - 1)
    assert found.to_mapping()["success_rates"]["a"] == 75.0


@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (0, 2)])
def test_there_is_nothing_to_say_without_achievements_or_episodes(shape: tuple[int, int]) -> None:
    assert summarise(["a", "b"][: shape[1]], np.zeros(shape, bool)) is None


def test_names_and_columns_must_agree() -> None:
    with pytest.raises(ShapeError, match="2 names"):
        summarise(["a", "b"], np.zeros((1, 3), bool))


def test_in_words_the_most_common_come_first() -> None:
    assert in_words({"a": 0.0, "b": 3.25, "c": 90.0}) == "c 90 %, b 3.25 %; 1 never"
    assert in_words({"a": 100.0}) == "a 100 %"
    assert in_words({"a": 0.0}) == "none"
