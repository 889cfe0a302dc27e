"""Score statistics reproduce the published figures from the published per-seed scores."""

import numpy as np
import pytest

from iris_cli.errors import ConfigError, ShapeError
from iris_cli.learn.scores import RANDOM_AND_HUMAN, aggregate, human_normalised, interquartile_mean, mean_score
from iris_cli.published import published_scores, reference_scores

PUBLISHED = published_scores()


@pytest.mark.parametrize(
    ("method", "figures", "superhuman"),
    [
        ("IRIS", ("1.046", "0.289", "0.501"), 10),
        ("TWM", ("0.956", "0.505", "0.459"), 8),
        ("Delta-IRIS", ("1.383", "0.594", "0.682"), 12),
        ("REM", ("1.222", "0.280", "0.673"), 12),
    ],
)
def test_published_scores_give_the_published_aggregates(
    method: str, figures: tuple[str, str, str], superhuman: int
) -> None:
    result = aggregate(PUBLISHED[method])

    assert (f"{result.mean:.3f}", f"{result.median:.3f}", f"{result.iqm:.3f}") == figures
    assert (result.superhuman, result.games, result.runs) == (superhuman, 26, 5)


@pytest.mark.parametrize(
    ("method", "gap"), [("IRIS", "0.512"), ("SimPLe", "0.729"), ("CURL", "0.768"), ("DrQ", "0.631"), ("SPR", "0.577")]
)
def test_published_scores_give_the_published_optimality_gap(method: str, gap: str) -> None:
    assert f"{aggregate(PUBLISHED[method]).optimality_gap:.3f}" == gap


def test_a_game_at_the_human_score_counts_as_superhuman() -> None:
    assert aggregate({"Pong": [14.6], "Boxing": [12.0]}).superhuman == 1


def test_games_weigh_the_same_in_the_mean_and_runs_in_the_iqm() -> None:
    result = aggregate({"Pong": [14.6] * 8, "Boxing": [0.1] * 2})

    assert (result.mean, result.iqm, result.runs) == (0.5, 1.0, 2)


def test_table_equals_the_published_random_and_human_scores() -> None:
    references = reference_scores()
    published = {game: (references["RANDOM"][game][0], references["HUMAN"][game][0]) for game in references["HUMAN"]}

    assert published == RANDOM_AND_HUMAN
    assert len(RANDOM_AND_HUMAN) == 26


def test_random_play_is_zero_and_a_human_is_one() -> None:
    assert human_normalised("Pong", [-20.7, 14.6]).tolist() == [0.0, 1.0]
    assert human_normalised("Pong", 14.6) == 1.0


def test_a_game_without_a_human_score_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean Qbert"):
        human_normalised("Qberd", 1.0)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 26, 130])
def test_interquartile_mean_equals_the_trimmed_mean_of_scipy(count: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(count).lognormal(size=count)

    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25), rel=1e-12)


def test_the_interval_is_the_same_for_the_same_seed() -> None:
    scores = np.random.default_rng(0).normal(size=100)

    assert mean_score(scores, seed=1) == mean_score(scores, seed=1)
    assert mean_score(scores, seed=1) != mean_score(scores, seed=2)


def test_the_interval_of_a_large_sample_is_the_normal_one() -> None:
    scores = np.random.default_rng(0).normal(loc=5, size=400)

    result = mean_score(scores)

    assert result.standard_error == pytest.approx(scores.std(ddof=1) / 20)
    assert result.low == pytest.approx(result.mean - 1.96 * result.standard_error, abs=0.005)
    assert result.high == pytest.approx(result.mean + 1.96 * result.standard_error, abs=0.005)


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    samples = np.random.default_rng(0).exponential(size=(200, 100))

    results = [mean_score(sample, confidence=0.8, resamples=500) for sample in samples]

    assert 0.7 < np.mean([result.low <= 1.0 <= result.high for result in results]) < 0.9


def test_one_episode_is_its_own_interval() -> None:
    result = mean_score([3.0])

    assert (result.mean, result.low, result.high, result.standard_error, result.episodes) == (3.0, 3.0, 3.0, 0.0, 1)


@pytest.mark.parametrize("scores", [[], [1.0, float("nan")], [float("inf")]])
def test_no_scores_and_unreal_scores_are_refused(scores: list[float]) -> None:
    with pytest.raises(ShapeError):
        mean_score(scores)
    with pytest.raises(ShapeError):
        aggregate({"Pong": scores})


def test_nothing_to_aggregate_is_refused() -> None:
    with pytest.raises(ShapeError, match="no scores"):
        aggregate({})


def test_a_confidence_outside_zero_to_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="95"):
        mean_score([1.0], confidence=95)
