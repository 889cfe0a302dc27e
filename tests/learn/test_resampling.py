"""Intervals, improvement and profiles equal what plain loops, scipy and known truths give."""

from collections.abc import Callable

import numpy as np
import pytest

from iris_cli.errors import ConfigError, ShapeError
from iris_cli.learn.resampling import aggregate_intervals, performance_profile, probability_of_improvement
from iris_cli.learn.scores import RANDOM_AND_HUMAN, aggregate, human_normalised
from iris_cli.published import published_scores

PUBLISHED = published_scores()
GAMES = list(RANDOM_AND_HUMAN)
Table = dict[str, list[float]]


def raw(game: str, normalised: np.ndarray) -> list[float]:
    random, human = RANDOM_AND_HUMAN[game]
    return (random + normalised * (human - random)).tolist()


def drawn_anew(table: Table, draws: np.random.Generator) -> Table:
    """One bootstrap sample the slow way: the runs of each game, with replacement."""
    return {game: [runs[draws.integers(len(runs))] for _ in runs] for game, runs in table.items()}


def slowly(figure: Callable[[np.random.Generator], float], resamples: int = 1500) -> np.ndarray:
    draws = np.random.default_rng(7)
    return np.quantile([figure(draws) for _ in range(resamples)], [0.025, 0.975])


@pytest.fixture
def table() -> Table:
    """Five games with unequal numbers of runs, spread as scores are."""
    draws = np.random.default_rng(3)
    return {game: raw(game, draws.lognormal(-1, 1, size=3 + index)) for index, game in enumerate(GAMES[:5])}


@pytest.mark.parametrize("figure", ["mean", "median", "iqm", "optimality_gap", "superhuman"])
def test_intervals_equal_those_of_a_loop(table: Table, figure: str) -> None:
    reference = slowly(lambda draws: getattr(aggregate(drawn_anew(table, draws)), figure))

    intervals = aggregate_intervals(table, resamples=20_000)

    assert intervals is not None
    width = reference[1] - reference[0]
    assert width > 0
    assert intervals[figure] == pytest.approx(reference, abs=0.1 * width)


def test_runs_are_drawn_within_their_game() -> None:
    """Games far apart, each with equal runs: whoever mixes them has a spread."""
    intervals = aggregate_intervals({"Pong": [14.6] * 5, "Boxing": [0.1] * 5})

    assert intervals is not None
    assert intervals["mean"] == (0.5, 0.5)
    assert intervals["optimality_gap"] == (0.5, 0.5)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """The percentile bootstrap is a little too sure with few runs; 12 in each of 6 games bring it near 95 %."""
    draws, held = np.random.default_rng(0), {"mean": 0, "iqm": 0}
    for seed in range(200):
        sample = {game: raw(game, draws.normal(0.5, 0.3, size=12)) for game in GAMES[:6]}
        intervals = aggregate_intervals(sample, resamples=400, seed=seed)
        assert intervals is not None
        for figure in held:
            held[figure] += intervals[figure][0] <= 0.5 <= intervals[figure][1]

    assert all(0.87 <= count / 200 <= 0.99 for count in held.values()), held


def test_the_same_seed_gives_the_same_interval(table: Table) -> None:
    assert aggregate_intervals(table, seed=1) == aggregate_intervals(table, seed=1)
    assert aggregate_intervals(table, seed=1) != aggregate_intervals(table, seed=2)


def test_one_run_a_game_has_no_interval() -> None:
    alone = {game: runs[:1] for game, runs in PUBLISHED["IRIS"].items()}

    assert aggregate_intervals(alone) is None
    assert probability_of_improvement(alone, PUBLISHED["TWM"]).interval is None
    assert probability_of_improvement(PUBLISHED["TWM"], alone).interval is None
    assert performance_profile(alone, [0.5]).band is None


def test_improvement_is_the_mann_whitney_statistic_of_each_game() -> None:
    stats = pytest.importorskip("scipy.stats")
    x, y = PUBLISHED["Delta-IRIS"], PUBLISHED["CURL"]

    result = probability_of_improvement(x, y)

    expected = {game: stats.mannwhitneyu(x[game], y[game]).statistic / (len(x[game]) * len(y[game])) for game in x}
    assert result.by_game == pytest.approx(expected)
    assert result.probability == pytest.approx(np.mean(list(expected.values())))


def test_ties_count_half() -> None:
    stats = pytest.importorskip("scipy.stats")
    x, y = [1.0, 2.0, 2.0, 3.0], [2.0, 2.0, 0.0]

    result = probability_of_improvement({"Pong": x}, {"Pong": y})

    assert result.probability == pytest.approx(stats.mannwhitneyu(x, y).statistic / 12)
    assert probability_of_improvement({"Pong": x}, {"Pong": x}).probability == 0.5


def test_improvement_one_way_is_what_the_other_lacks() -> None:
    there = probability_of_improvement(PUBLISHED["IRIS"], PUBLISHED["REM"]).probability
    back = probability_of_improvement(PUBLISHED["REM"], PUBLISHED["IRIS"]).probability

    assert there + back == pytest.approx(1)
    assert there < back


def test_the_interval_of_improvement_equals_that_of_a_loop() -> None:
    """Both sides are drawn anew."""
    draws = np.random.default_rng(5)
    x = {game: draws.normal(0.3, 1, size=4).tolist() for game in GAMES[:3]}
    y = {game: draws.normal(0, 1, size=6).tolist() for game in GAMES[:3]}

    def once(draws: np.random.Generator) -> float:
        ours, theirs = drawn_anew(x, draws), drawn_anew(y, draws)
        return float(np.mean([a > b for game in x for a in ours[game] for b in theirs[game]]))

    reference = slowly(once)
    result = probability_of_improvement(x, y, resamples=20_000)

    assert result.interval == pytest.approx(reference, abs=0.1 * (reference[1] - reference[0]))


def test_improvement_is_over_the_shared_games() -> None:
    mine = {"Pong": [21.0, 20.5], "Catch-v0": [1.0]}

    assert probability_of_improvement(mine, PUBLISHED["CURL"]).by_game == {"Pong": 1.0}
    with pytest.raises(ShapeError, match="no game that both"):
        probability_of_improvement({"Catch-v0": [1.0]}, PUBLISHED["SimPLe"])


def test_a_profile_is_the_share_of_runs_above(table: Table) -> None:
    thresholds = [0.0, 0.2, 0.5, 1.0]
    every = np.concatenate([human_normalised(game, runs) for game, runs in table.items()])

    profile = performance_profile(table, thresholds)

    assert profile.shares == pytest.approx([(every > limit).mean() for limit in thresholds])
    assert performance_profile({"Pong": [14.6, 14.6]}, [1.0]).shares.tolist() == [0.0]


def test_the_band_of_a_profile_equals_that_of_a_loop(table: Table) -> None:
    def once(draws: np.random.Generator) -> float:
        sample = drawn_anew(table, draws)
        return float((np.concatenate([human_normalised(game, runs) for game, runs in sample.items()]) > 0.3).mean())

    profile = performance_profile(table, [0.3], resamples=20_000)

    assert profile.band is not None
    assert [edge[0] for edge in profile.band] == pytest.approx(slowly(once), abs=0.03)


def test_a_game_without_a_human_score_is_refused() -> None:
    with pytest.raises(ConfigError, match="Catch-v0"):
        aggregate_intervals({"Catch-v0": [1.0, 0.5]})
    with pytest.raises(ShapeError):
        performance_profile({}, [0.5])
