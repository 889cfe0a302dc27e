"""Scores: human normalisation, and the statistics that the Atari 100k papers report.

A score is the raw, undiscounted sum of an episode's rewards. Nothing here knows an agent or reads a file.

Source of the aggregates: Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice" (arXiv 2108.13264).
The published per-seed scores of IRIS, Delta-IRIS, TWM and REM give their published figures
(tests/learn/test_scores.py). How far to trust an aggregate: learn/resampling.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iris_cli.errors import ConfigError, ShapeError

# Game -> (random play, professional human tester): the 26 games of Atari 100k and the two columns, RANDOM and HUMAN,
# that every paper on it shares. Wang et al. 2016 (arXiv 1511.06581), as published with the scores of eloialonso/iris.
RANDOM_AND_HUMAN: dict[str, tuple[float, float]] = {
    "Alien": (227.8, 7127.7),
    "Amidar": (5.8, 1719.5),
    "Assault": (222.4, 742.0),
    "Asterix": (210.0, 8503.3),
    "BankHeist": (14.2, 753.1),
    "BattleZone": (2360.0, 37187.5),
    "Boxing": (0.1, 12.1),
    "Breakout": (1.7, 30.5),
    "ChopperCommand": (811.0, 7387.8),
    "CrazyClimber": (10780.5, 35829.4),
    "DemonAttack": (152.1, 1971.0),
    "Freeway": (0.0, 29.6),
    "Frostbite": (65.2, 4334.7),
    "Gopher": (257.6, 2412.5),
    "Hero": (1027.0, 30826.4),
    "Jamesbond": (29.0, 302.8),
    "Kangaroo": (52.0, 3035.0),
    "Krull": (1598.0, 2665.5),
    "KungFuMaster": (258.5, 22736.3),
    "MsPacman": (307.3, 6951.6),
    "Pong": (-20.7, 14.6),
    "PrivateEye": (24.9, 69571.3),
    "Qbert": (163.9, 13455.0),
    "RoadRunner": (11.5, 7845.0),
    "Seaquest": (68.4, 42054.7),
    "UpNDown": (533.4, 11693.2),
}


@dataclass(frozen=True)
class MeanScore:
    """The mean of one agent's episodes, and how far to trust it."""

    mean: float
    standard_error: float  # of the mean, from the sample's spread; 0 for a single episode
    low: float  # bounds of the bootstrap confidence interval
    high: float
    confidence: float  # of the interval, in (0, 1)
    episodes: int


@dataclass(frozen=True)
class Aggregate:
    """Human-normalised scores of one method over games and runs: 0 is random play, 1 a human tester."""

    mean: float  # over games, of each game's mean over runs
    median: float  # over games, of each game's mean over runs
    iqm: float  # mean of the middle half of all games x runs
    optimality_gap: float  # how far below 1, on average over games x runs; less is better
    superhuman: int  # games whose mean over runs is 1 or more
    games: int
    runs: int  # of each game; of the one that has fewest where they differ


def human_normalised(game: str, scores: ArrayLike) -> NDArray[np.float64]:
    """Scale raw scores so that random play is 0 and the human tester 1.

    Args:
        game: a key of `RANDOM_AND_HUMAN`.
        scores: raw scores, any shape.

    Returns:
        float64 of the same shape: (score - random) / (human - random).

    Raises:
        ConfigError: if the game is not one of the 26; there is then no published reference.
    """
    if game not in RANDOM_AND_HUMAN:
        near = get_close_matches(game, RANDOM_AND_HUMAN, n=3)
        raise ConfigError(
            f"there is no published human score for '{game}'",
            fix=f"Did you mean {' or '.join(near)}?" if near else "The 26 games of Atari 100k have one.",
        )
    random, human = RANDOM_AND_HUMAN[game]
    return (np.asarray(scores, dtype=np.float64) - random) / (human - random)


def interquartile_mean(values: ArrayLike) -> float:
    """Mean without the lowest and the highest quarter, each rounded down to whole values.

    Raises:
        ShapeError: if there are no values, or one is not finite.
    """
    return float(_middle_half_mean(finite(values)))


def mean_score(scores: ArrayLike, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0) -> MeanScore:
    """Mean of raw scores with a percentile bootstrap confidence interval; the same seed gives the same interval.

    Args:
        scores: (episodes,) raw scores.
        confidence: share of the resampled means that the interval holds, in (0, 1).
        resamples: how many times the episodes are drawn anew with replacement, all at once.
        seed: of the resampling.

    Raises:
        ConfigError: if the confidence is outside (0, 1).
        ShapeError: if there are no scores, or one is not finite.

    Source: Efron & Tibshirani 1993, section 13.3.
    """
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence is {confidence}, but must lie between 0 and 1")
    sample = finite(scores)
    episodes = len(sample)
    drawn = np.random.default_rng(seed).integers(episodes, size=(resamples, episodes))
    low, high = np.quantile(sample[drawn].mean(axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    spread = float(sample.std(ddof=1)) if episodes > 1 else 0.0
    return MeanScore(
        mean=float(sample.mean()),
        standard_error=spread / episodes**0.5,
        low=float(low),
        high=float(high),
        confidence=confidence,
        episodes=episodes,
    )


def aggregate(scores: Mapping[str, Sequence[float]]) -> Aggregate:
    """Human-normalised statistics over games and runs.

    Args:
        scores: game -> raw score of each run (the mean of that run's episodes).

    Raises:
        ConfigError: if a game is not one of the 26.
        ShapeError: if there are no games, a game has no runs, or a score is not finite.
    """
    by_game = normalised_by_game(scores)
    figures = {name: float(value) for name, value in statistics(by_game).items()}
    superhuman = int(figures.pop("superhuman"))
    return Aggregate(**figures, superhuman=superhuman, games=len(by_game), runs=min(map(len, by_game)))


def normalised_by_game(scores: Mapping[str, Sequence[float]]) -> list[NDArray[np.float64]]:
    """Human-normalised scores (runs,) of each game, in the order of `scores`.

    Raises:
        ConfigError: if a game is not one of the 26.
        ShapeError: if there are no games, a game has no runs, or a score is not finite.
    """
    if not scores:
        raise ShapeError("there are no scores to aggregate")
    return [human_normalised(game, finite(runs)) for game, runs in scores.items()]


def statistics(by_game: Sequence[NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """The fields of `Aggregate` that are figures, of one table of scores or of many at once.

    Args:
        by_game: of each game (..., runs of that game), normalised; the leading axes are the same in all games.

    Returns:
        mean, median, iqm, optimality_gap and superhuman, each (...).
    """
    game_means = np.stack([runs.mean(axis=-1) for runs in by_game], axis=-1)  # (..., games)
    every_run = np.concatenate(by_game, axis=-1)  # (..., runs of all games)
    return {
        "mean": game_means.mean(axis=-1),
        "median": np.median(game_means, axis=-1),
        "iqm": _middle_half_mean(every_run),
        "optimality_gap": np.maximum(0, 1 - every_run).mean(axis=-1),
        "superhuman": (game_means >= 1).sum(axis=-1),
    }


def finite(values: ArrayLike) -> NDArray[np.float64]:
    """`values` as (n,) float64, at least one of them and all finite.

    Raises:
        ShapeError: if there are none, or one is not finite.
    """
    flat = np.asarray(values, dtype=np.float64).reshape(-1)
    if flat.size == 0:
        raise ShapeError("there are no scores")
    if not np.isfinite(flat).all():
        raise ShapeError("a score is not a finite number")
    return flat


def _middle_half_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., n) -> (...): mean over the last axis without its lowest and highest quarter."""
    count = values.shape[-1]
    cut = count // 4
    parted = np.partition(values, (cut, count - cut - 1), axis=-1)  # as good as sorted, and quicker
    return parted[..., cut : count - cut].mean(axis=-1)
