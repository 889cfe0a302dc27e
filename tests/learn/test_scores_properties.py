"""Score statistics of any numbers: what they do not depend on, what bounds them, and what scipy gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iris_cli.learn.resampling import aggregate_intervals, performance_profile, probability_of_improvement
from iris_cli.learn.scores import RANDOM_AND_HUMAN, aggregate, human_normalised, interquartile_mean, mean_score

numbers = st.floats(-1e6, 1e6)
lists = st.lists(numbers, min_size=1, max_size=40)
tables = st.dictionaries(
    st.sampled_from(sorted(RANDOM_AND_HUMAN)), st.lists(numbers, min_size=1, max_size=6), min_size=1, max_size=5
)


@given(lists)
def test_the_iqm_is_the_trimmed_mean_of_scipy_and_does_not_depend_on_the_order(values: list[float]) -> None:
    stats = pytest.importorskip("scipy.stats")

    iqm = interquartile_mean(values)

    assert iqm == pytest.approx(stats.trim_mean(values, 0.25), rel=1e-9, abs=1e-6)
    assert iqm == pytest.approx(interquartile_mean(values[::-1]), rel=1e-9, abs=1e-6)
    assert min(values) - 1e-6 <= iqm <= max(values) + 1e-6


@given(lists, st.floats(0.5, 100), st.floats(-1e3, 1e3))
def test_the_iqm_moves_with_its_values(values: list[float], factor: float, shift: float) -> None:
    moved = interquartile_mean([factor * value + shift for value in values])

    assert moved == pytest.approx(factor * interquartile_mean(values) + shift, rel=1e-6, abs=1e-4)


@given(lists, st.sampled_from([0.5, 0.8, 0.95]))
def test_an_interval_lies_within_the_values_and_widens_with_confidence(values: list[float], confidence: float) -> None:
    found = mean_score(values, confidence=confidence, resamples=200)
    wider = mean_score(values, confidence=0.99, resamples=200)

    assert min(values) - 1e-6 <= found.low <= found.high <= max(values) + 1e-6
    assert wider.low - 1e-6 <= found.low
    assert found.high <= wider.high + 1e-6
    assert found.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-6)


@given(st.lists(st.floats(-100, 100), min_size=5, max_size=30))
def test_the_interval_is_the_percentile_bootstrap_of_scipy(values: list[float]) -> None:
    stats = pytest.importorskip("scipy.stats")
    if np.ptp(values) < 1e-3:
        return  # there is nothing to resample

    found = mean_score(values, resamples=4000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", random_state=1)

    allowed = 0.12 * max(found.high - found.low, 1e-9)  # both are drawn
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval), abs=allowed)


@given(tables, st.randoms(use_true_random=False))
def test_aggregates_do_not_depend_on_any_order(table: dict[str, list[float]], draws: object) -> None:
    games = list(table)
    draws.shuffle(games)  # type: ignore[attr-defined]
    other = {game: draws.sample(table[game], len(table[game])) for game in games}  # type: ignore[attr-defined]

    one, two = aggregate(table), aggregate(other)

    for name in ("mean", "median", "iqm", "optimality_gap"):
        assert getattr(one, name) == pytest.approx(getattr(two, name), rel=1e-9, abs=1e-6)
    assert (one.superhuman, one.games, one.runs) == (two.superhuman, two.games, two.runs)


@given(tables)
def test_aggregates_are_what_they_are_defined_as(table: dict[str, list[float]]) -> None:
    every = [score for game, runs in table.items() for score in human_normalised(game, runs)]
    means = [np.mean(human_normalised(game, runs)) for game, runs in table.items()]

    found = aggregate(table)

    assert found.optimality_gap == pytest.approx(np.mean([max(0, 1 - score) for score in every]), rel=1e-9, abs=1e-9)
    assert found.mean == pytest.approx(np.mean(means), rel=1e-9, abs=1e-9)
    assert found.median == pytest.approx(np.median(means), rel=1e-9, abs=1e-9)
    assert found.superhuman == sum(mean >= 1 for mean in means)
    assert found.iqm == pytest.approx(interquartile_mean(every), rel=1e-9, abs=1e-9)


@given(tables)
def test_intervals_lie_in_order_and_none_is_there_without_several_runs(table: dict[str, list[float]]) -> None:
    intervals = aggregate_intervals(table, resamples=50)

    if all(len(runs) == 1 for runs in table.values()):
        assert intervals is None
    else:
        assert intervals is not None
        assert all(low <= high for low, high in intervals.values())


@given(tables, st.lists(st.floats(-50, 50), min_size=1, max_size=8))
def test_profiles_fall_from_one_to_zero(table: dict[str, list[float]], thresholds: list[float]) -> None:
    every = np.concatenate([human_normalised(game, runs) for game, runs in table.items()])
    edges = sorted([*thresholds, float(every.min()) - 1, float(every.max())])

    profile = performance_profile(table, edges, resamples=50)

    assert np.all(np.diff(profile.shares) <= 0)
    assert profile.shares[0] == 1
    assert profile.shares[-1] == 0
    assert profile.shares.tolist() == pytest.approx([(every > edge).mean() for edge in edges])
    if profile.band is not None:
        low, high = profile.band
        assert np.all((low <= high) & (low >= 0) & (high <= 1 + 1e-12))


@given(tables, tables)
def test_improvement_one_way_is_what_the_other_way_lacks(
    ours: dict[str, list[float]], theirs: dict[str, list[float]]
) -> None:
    if not ours.keys() & theirs.keys():
        return

    there = probability_of_improvement(ours, theirs, resamples=20)
    back = probability_of_improvement(theirs, ours, resamples=20)

    assert there.probability + back.probability == pytest.approx(1)
    assert 0 <= there.probability <= 1
    assert probability_of_improvement(ours, ours, resamples=20).probability == pytest.approx(0.5)
