"""Achievements of episodes: how often each was unlocked, and the one score that the Crafter benchmark makes of that.

Source: Hafner 2021, "Benchmarking the spectrum of agent capabilities" (arXiv 2109.06780). A geometric mean: one more
percent of a rare achievement counts for more than one of a common one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iris_cli.errors import ShapeError


@dataclass(frozen=True)
class Achievements:
    """What episodes unlocked.

    Attributes:
        score: in percent, see `achievement_score`.
        unlocked: how many different ones an episode unlocked, on average.
        success_rates: achievement -> percent of the episodes that unlocked it at least once.
        episodes: how many these are of.
    """

    score: float
    unlocked: float
    success_rates: dict[str, float]
    episodes: int

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "score": self.score,
            "unlocked": self.unlocked,
            "episodes": self.episodes,
            "success_rates": {name: round(rate, 4) for name, rate in self.success_rates.items()},
        }


def achievement_score(success_rates: ArrayLike) -> float:
    """Geometric mean of success rates, exp(mean(ln(1 + s))) - 1, in percent.

    Args:
        success_rates: (achievements,) in percent, 0 to 100.

    Raises:
        ShapeError: if there are none, or one is not a percentage.
    """
    rates = np.asarray(success_rates, np.float64)
    if rates.size == 0 or not ((rates >= 0) & (rates <= 100)).all():
        raise ShapeError("success rates are percentages, at least one of them")
    return float(np.expm1(np.log1p(rates).mean()))


def summarise(names: Sequence[str], unlocked: NDArray[np.bool_]) -> Achievements | None:
    """What finished episodes unlocked; None where the game has no achievements, or no episode is finished.

    Args:
        names: of the achievements.
        unlocked: (episodes, achievements), whether each episode unlocked them.

    Raises:
        ShapeError: if there is another number of names than of columns.
    """
    if unlocked.shape[1] != len(names):
        raise ShapeError(f"there are {len(names)} names of achievements, but {unlocked.shape[1]} columns")
    if not unlocked.size:
        return None
    rates = 100 * unlocked.mean(0)
    return Achievements(
        score=achievement_score(rates),
        unlocked=float(unlocked.sum(1).mean()),
        success_rates=dict(zip(names, rates.tolist(), strict=True)),
        episodes=len(unlocked),
    )


def in_words(success_rates: Mapping[str, float]) -> str:
    """ "collect_wood 87 %, eat_cow 3.5 %; 20 never": the most common first."""
    seen = sorted(((rate, name) for name, rate in success_rates.items() if rate), key=lambda item: (-item[0], item[1]))
    never = len(success_rates) - len(seen)
    words = ", ".join(f"{name} {rate:.3g} %" for rate, name in seen) or "none"
    return f"{words}; {never} never" if never and seen else words
