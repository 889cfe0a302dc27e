"""`iris scores`: runs beside the published methods, by the same definitions, on the same games.

The final evaluation of each run counts as that run's score (evaluations.py says which it is); the figures are those of
learn/scores.py and learn/resampling.py. Whatever makes a comparison unfair is said. Nothing but a picture is written.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from iris_cli import console, plots
from iris_cli.card import holds_sweeps
from iris_cli.config import nearest
from iris_cli.errors import ConfigError, RunError
from iris_cli.evaluations import STEPS, Evaluation, final_evaluation
from iris_cli.learn.resampling import (
    RESAMPLES,
    aggregate_intervals,
    performance_profile,
    probability_of_improvement,
)
from iris_cli.learn.scores import RANDOM_AND_HUMAN, aggregate, human_normalised
from iris_cli.object_store import Location
from iris_cli.published import published_scores, sources
from iris_cli.working_copy import at_hand

FIGURES = ("mean", "median", "iqm", "optimality_gap", "superhuman", "runs")
PROFILED = ("IRIS", "TWM", "Delta-IRIS", "Simulus")  # in the picture, besides yours and the method compared with
WIDE = 126  # characters of a terminal, from which on intervals stand beside their figures
DEFINITIONS = {
    "human_normalised": "(score - random) / (human - random); a run's score is the mean of its evaluation episodes",
    "mean": "over games, of each game's mean over runs",
    "median": "over games, of each game's mean over runs",
    "iqm": "mean of the middle half of the scores of all runs of all games",
    "optimality_gap": "mean over all runs of all games of max(0, 1 - score); less is better",
    "superhuman": "games whose mean over runs is 1 or more",
    "runs": "runs (seeds) of each game, of the one that has fewest where they differ",
    "intervals": f"95 % percentiles of {RESAMPLES:,} stratified bootstrap resamples of the runs within each game",
    "improvement": "probability that a run scores more than one of the other method (ties count half), mean over games",
}

Scores = dict[str, list[float]]  # game -> raw score of each run


def scores(runs: Sequence[Location], *, against: str | None = None, profile: Path | None = None) -> dict[str, Any]:
    """Compare runs with the published methods.

    Args:
        runs: their directories or URLs; none gives the published figures alone.
        against: the method for the probability of improvement; None: IRIS.
        profile: where to draw performance profiles, if anywhere.

    Returns:
        JSON-safe. `published`: method -> the `FIGURES` on all 26 games. `yours`: the same of the runs, with `games`
        and `intervals`; None without a run on one of the 26. `published_on_your_games`: the methods with intervals on
        the games of yours, or on all 26. `improvement`; `games`: raw scores; `reports`: which were taken; `warnings`;
        `definitions`; `sources`; `profile`.

    Raises:
        ConfigError: for an unknown method, or one to compare nothing with.
        RunError: if one of them is not there, or none has a score.
    """
    published = published_scores()
    if against is not None and against not in published:
        raise ConfigError(
            f"there is no published method '{against}'", where="--against", fix=nearest(against, published)
        )
    if against is not None and not runs:
        raise ConfigError("there is nothing to compare", where="--against", fix="Name runs: iris scores runs/*")
    warnings: list[str] = []
    by_game = _by_game(_final(runs, warnings), warnings)
    mine = {game: [report.mean for report in found] for game, found in by_game.items() if game in RANDOM_AND_HUMAN}
    rivals = (
        {method: {game: table[game] for game in mine} for method, table in published.items()} if mine else published
    )
    method = against or "IRIS"
    improvement = probability_of_improvement(mine, published[method]) if mine else None
    if profile is not None:
        _draw_profiles(profile, mine, {name: rivals[name] for name in dict.fromkeys((*PROFILED, method))})
    return {
        "published": {name: _figures(table) for name, table in published.items()},
        "yours": {**_with_intervals(mine), "games": len(mine)} if mine else None,
        "published_on_your_games": {name: _with_intervals(table) for name, table in rivals.items()},
        "improvement": {"against": method, **asdict(improvement)} if improvement else None,
        "games": {game: _game(game, found, published) for game, found in by_game.items()},
        "reports": [_report(report) for found in by_game.values() for report in found],
        "warnings": warnings,
        "definitions": DEFINITIONS,
        "sources": sources(),
        "profile": str(profile) if profile is not None else None,
    }


def show(facts: Mapping[str, Any]) -> None:
    """Print what `scores` returned."""
    if facts["games"]:
        columns = ["game", "runs", "score ± s.e.", "normalised", "random", "human", "IRIS", "best published"]
        console.grid("Scores", columns, [_game_row(game, facts["games"][game]) for game in facts["games"]])
        console.say("")
    yours = facts["yours"]
    if yours or not facts["games"]:
        _show_published(facts)
    for report in facts["reports"]:
        score = report.get("achievement_score")
        achieved = "" if score is None else f", achievement score {score:.2f} %"
        console.say(f"{report['run']}: {Path(report['report']).name}, {report['episodes']} episodes{achieved}")
    if facts["profile"]:
        console.say(f"profile {facts['profile']}")
    for warning in facts["warnings"]:
        console.warn(warning)


def _show_published(facts: Mapping[str, Any]) -> None:
    """The published methods, and yours among them, on your games or on all."""
    yours = facts["yours"]
    count = yours["games"] if yours else len(RANDOM_AND_HUMAN)
    games = _games_in_words(count)
    rivals = sorted(facts["published_on_your_games"].items(), key=lambda item: -item[1]["iqm"])
    below = console.width() < WIDE
    rows = [_figures_row(name, figures, below) for name, figures in ([("yours", yours)] if yours else []) + rivals]
    columns = ["method", "runs", "mean", "median", "IQM", "optimality gap", "superhuman"]
    console.grid(f"Human-normalised, {games} of Atari 100k (95 % stratified bootstrap intervals)", columns, rows)
    improvement = facts["improvement"]
    if improvement:
        words = f"{improvement['probability']:.2f}{_bounds(improvement['interval'], '.2f')}"
        console.say(f"\nProbability of improvement over {improvement['against']}: {words}")


def _final(runs: Sequence[Location], warnings: list[str]) -> list[Evaluation]:
    """The final evaluation of each run that has one that counts."""
    found: list[Evaluation] = []
    for run in runs:
        if holds_sweeps(run):
            continue
        if run.exists() and not (run / "run.yaml").exists():
            warnings.append(f"{run} is no run, and is left out")
            continue
        report = final_evaluation(at_hand(run))
        if report is None:
            warnings.append(f"{run} has no evaluation yet, and is left out: iris evaluate --run {run}")
            continue
        twin = next((other for other in found if other.fingerprint == report.fingerprint), None)
        if report.cut:
            warnings.append(f"{run}: {report.cut} of {len(report.scores)} games were cut short, so it is left out")
        elif twin is not None:
            warnings.append(f"{run} holds the very weights of {twin.run}, and is left out")
        else:
            found.append(report)
    if runs and not found:
        raise RunError(f"there is no score to compare: {'; '.join(warnings)}")
    return found


def _by_game(found: Sequence[Evaluation], warnings: list[str]) -> dict[str, list[Evaluation]]:
    """The evaluations by game, in alphabetical order; adds to the warnings what is unfair about them."""
    by_game: dict[str, list[Evaluation]] = defaultdict(list)
    for report in found:
        by_game[report.game].append(report)
        words = list(report.departures)
        if report.game in RANDOM_AND_HUMAN and report.steps is None and not report.imported:
            words.append("how many steps it learned from is not recorded")
        if report.game in RANDOM_AND_HUMAN and report.steps not in (None, STEPS):
            words.append(f"learned from {report.steps:,} environment steps, not {STEPS:,}")
        if words:
            warnings.append(f"{report.run} is not evaluated as published: {'; '.join(words)}")
    for game, reports in sorted(by_game.items()):
        seeds = [report.seed for report in reports]
        for seed in sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            names = ", ".join(str(report.run) for report in reports if report.seed == seed)
            warnings.append(f"{game}, seed {seed} is there more than once ({names}), and all of them count")
        if game not in RANDOM_AND_HUMAN:
            warnings.append(f"{game} is none of the 26 games of Atari 100k, so it is in no human-normalised figure")
    agents = sorted({f"{report.agent} ({report.preset})" for report in found})
    if len(agents) > 1:
        warnings.append(f"these runs are of several agents, taken together as one method: {', '.join(agents)}")
    counts = {len(reports) for game, reports in by_game.items() if game in RANDOM_AND_HUMAN}
    if counts == {1}:
        warnings.append("each game has one run, which says nothing of other seeds: no intervals")
    elif len(counts) > 1:
        alone = " and those with one run make the intervals too narrow" if 1 in counts else ""
        warnings.append(f"games have unequal numbers of runs: those with more weigh more in the IQM{alone}")
    return dict(sorted(by_game.items()))


def _figures(table: Mapping[str, Sequence[float]]) -> dict[str, float | int]:
    figures = asdict(aggregate(table))
    return {name: figures[name] for name in FIGURES}


def _with_intervals(table: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    return {**_figures(table), "intervals": aggregate_intervals(table)}


def _game(game: str, found: Sequence[Evaluation], published: Mapping[str, Scores]) -> dict[str, Any]:
    """All there is to say of one game. The standard error is over runs, or over the episodes of a single one."""
    means = np.array([report.mean for report in found])
    several = len(found) > 1
    error = float(means.std(ddof=1) / len(means) ** 0.5) if several else found[0].standard_error
    facts = {
        "runs": len(found),
        "scores": means.tolist(),
        "seeds": [report.seed for report in found],
        "mean": float(means.mean()),
        "standard_error": error,
        "standard_error_over": "runs" if several else "episodes",
    }
    if game not in RANDOM_AND_HUMAN:
        return facts
    random, human = RANDOM_AND_HUMAN[game]
    theirs = {method: float(np.mean(table[game])) for method, table in published.items()}
    best = max(theirs, key=lambda method: theirs[method])
    return {
        **facts,
        "human_normalised": float(human_normalised(game, means.mean())),
        "random": random,
        "human": human,
        "published_iris": theirs["IRIS"],
        "published_best": {"method": best, "mean": theirs[best]},
    }


def _report(report: Evaluation) -> dict[str, Any]:
    return {
        "run": str(report.run),
        "report": str(report.path),
        "game": report.game,
        "agent": report.agent,
        "preset": report.preset,
        "seed": report.seed,
        "mean": report.mean,
        "standard_error": report.standard_error,
        "episodes": len(report.scores),
        "collected_steps": report.steps,
        "checkpoint": report.checkpoint,
        "fingerprint": report.fingerprint,
        "departures": list(report.departures),
        **({} if report.achievement_score is None else {"achievement_score": report.achievement_score}),
    }


def _game_row(game: str, facts: Mapping[str, Any]) -> list[object]:
    over = "" if facts["standard_error_over"] == "runs" else " (episodes)"
    row: list[object] = [game, facts["runs"], f"{_raw(facts['mean'])} ± {_raw(facts['standard_error'])}{over}"]
    if "human_normalised" not in facts:
        return [*row, "-", "-", "-", "-", "-"]
    best = facts["published_best"]
    return [
        *row, f"{facts['human_normalised']:.3f}", _raw(facts["random"]), _raw(facts["human"]),
        _raw(facts["published_iris"]), f"{_raw(best['mean'])} {best['method']}",
    ]  # fmt: skip


def _figures_row(name: str, figures: Mapping[str, Any], below: bool) -> list[object]:
    """A method in the table; its intervals stand below its figures where there is little room."""
    intervals = figures["intervals"] or {}

    def cell(key: str, form: str, bounds_form: str) -> str:
        return f"{figures[key]:{form}}{_bounds(intervals.get(key), bounds_form, below)}"

    return [name, figures["runs"], *(cell(key, ".3f", ".2f") for key in FIGURES[:4]), cell("superhuman", "", ".0f")]


def _bounds(interval: Sequence[float] | None, form: str, below: bool = False) -> str:
    if interval is None:
        return ""
    low, high = (format(bound, form) for bound in interval)
    return f"\n{low}..{high}" if below else f" ({low} to {high})"


def _raw(score: float) -> str:
    return f"{score:,.1f}" if abs(score) < 10_000 else f"{score:,.0f}"


def _draw_profiles(path: Path, mine: Scores, rivals: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    thresholds = np.linspace(0, 2, 201)
    tables = {**({"yours": mine} if mine else {}), **rivals}
    profiles = {name: performance_profile(table, thresholds) for name, table in tables.items()}
    curves = [
        plots.Curve(label=name, x=thresholds, y=profile.shares, band=profile.band, strong=name == "yours")
        for name, profile in profiles.items()
    ]
    games = _games_in_words(len(mine) or len(RANDOM_AND_HUMAN))
    plots.performance_profiles(path, curves, title=f"Performance profiles, {games} of Atari 100k")


def _games_in_words(count: int) -> str:
    every = len(RANDOM_AND_HUMAN)
    return f"all {every} games" if count == every else f"{count} of the {every} games"
