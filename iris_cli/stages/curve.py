"""`iris curve`: how the score of runs grew, as a picture.

A pipeline logs each evaluation in metrics.jsonl, between the stages that came before it; their steps and seconds are
summed. A run that was trained by hand has its evaluation reports alone. Nothing but the picture is written.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from iris_cli import plots
from iris_cli.card import read_card
from iris_cli.envs.spec import EnvSpec
from iris_cli.errors import DAMAGE, ConfigError, RunError, reason_of
from iris_cli.evaluations import TIME, evaluations
from iris_cli.learn.scores import RANDOM_AND_HUMAN
from iris_cli.metrics import Line, is_number, read_metrics
from iris_cli.object_store import Location
from iris_cli.report import Report
from iris_cli.working_copy import at_hand

AXES = {"steps": "environment steps", "minutes": "minutes of work"}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One evaluation on the way."""

    steps: int | None  # environment steps before it; None: not recorded
    minutes: float  # of all stages before it, earlier evaluations included; by hand: since the run was made
    score: float  # mean over episodes
    standard_error: float | None  # of that mean; None where its report is gone
    cut: int = 0  # of its games, how many were cut short


def curve(
    runs: Sequence[Location],
    out: Path,
    *,
    x: str = "steps",
    random: float | None = None,
    threshold: float | None = None,
) -> Report:
    """Draw the evaluations of runs of one game, a line for each run with a band of one standard error.

    Args:
        runs: their directories or URLs.
        out: the picture: .png, .svg or .pdf.
        x: "steps" or "minutes".
        random: score of random play to mark; None takes the published one, where there is one.
        threshold: score to mark, and to say when it was first reached.

    Raises:
        ConfigError: if the runs play different games, or the picture is of another kind.
        RunError: if a run is not there, cannot be read, or has nothing to draw.
    """
    games = {run: EnvSpec.from_mapping(read_card(run)["environment"]).name for run in map(at_hand, runs)}
    if len(set(games.values())) > 1:
        names = ", ".join(sorted(set(games.values())))
        raise ConfigError(f"scores of different games do not share an axis ({names})", fix="Draw one game at a time.")
    game = next(iter(games.values()))
    if random is None and game in RANDOM_AND_HUMAN:
        random = RANDOM_AND_HUMAN[game][0]
    points = {run: _placed(run, x) for run in games}
    curves = [_curve(_label(run, games), found, x) for run, found in points.items()]
    plots.learning_curves(
        out, curves, title=f"{game}: evaluations of the real game", x_label=AXES[x], random=random, threshold=threshold
    )
    figures: dict[str, float | int | str] = {
        f"{_label(run, games)}, last score": found[-1].score for run, found in points.items()
    }
    if threshold is not None:
        figures |= {
            f"{_label(run, games)}, {threshold:g} after": _first(found, x, threshold) for run, found in points.items()
        }
    cut = [_label(run, games) for run, found in points.items() if any(point.cut for point in found)]
    notes = (f"games of {', '.join(cut)} were cut short, so these are not scores",) if cut else ()
    return Report(stage="curve", figures=figures, files={"picture": out}, notes=notes)


def _first(points: Sequence[Point], x: str, threshold: float) -> str:
    """When a score was first reached, in words."""
    for point in points:
        if point.score >= threshold:
            return f"{point.steps:,} steps" if x == "steps" else f"{point.minutes:.1f} minutes"
    return "not reached"


def points_of(run: Path) -> list[Point]:
    """The evaluations of a run, in order, from its metrics or else its reports.

    Raises:
        RunError: if there is no run, or one of the files cannot be read.
    """
    return _from_metrics(run) or _from_reports(run)


def _placed(run: Path, x: str) -> list[Point]:
    points = points_of(run)
    if not points:
        raise RunError("there is no evaluation to draw", where=run, fix=f"Evaluate it: iris evaluate --run {run}")
    if x == "steps" and any(point.steps is None for point in points):
        raise RunError("how many steps it learned from is not recorded", where=run, fix="Draw minutes: --x minutes")
    return points


def points_in(lines: Iterable[Line], run: Path) -> list[Point]:
    """The evaluations among the lines of a pipeline's run.

    Raises:
        RunError: if a line that closes a stage lacks something.
    """
    points: list[Point] = []
    steps, seconds = 0, 0.0
    try:
        for line in lines:
            if line.get("event") != "stage":
                continue
            if line["stage"] == "collect":
                steps = int(_number(line["figures"]["steps_in_all"]))
            if line["stage"] == "evaluate":
                name = line["phase"] if line["round"] is None else f"round-{line['round']:04d}"
                error, cut = _of_report(run / "reports" / f"evaluate-{name}.json")
                score = _number(line["figures"]["mean_score"])
                points.append(Point(steps=steps, minutes=seconds / 60, score=score, standard_error=error, cut=cut))
            seconds += _number(line["seconds"])
    except DAMAGE as error:
        raise RunError(f"the metrics cannot be read ({reason_of(error)})", where=run / "metrics.jsonl") from None
    return points


def _from_metrics(run: Path) -> list[Point]:
    """Of a pipeline's run; a last line that a kill cut off is none."""
    path = run / "metrics.jsonl"
    found = read_metrics(path)
    if found.skipped:
        raise RunError(f"the metrics cannot be read ({found.skipped} lines are none)", where=path)
    return points_in(found.lines, run)


def _from_reports(run: Path) -> list[Point]:
    created = datetime.strptime(read_card(run)["created"], TIME)
    return [
        Point(
            steps=report.steps, minutes=(report.time - created).total_seconds() / 60, score=report.mean,
            standard_error=report.standard_error, cut=report.cut,
        )
        for report in evaluations(run)
    ]  # fmt: skip


def _number(value: object) -> int | float:
    if not is_number(value):
        raise ValueError(f"{value!r:.40} is no number")
    return value


def _of_report(path: Path) -> tuple[float | None, int]:
    """The standard error of an evaluation, and how many of its games were cut."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return float(content["standard_error"]), int(content.get("cut", 0))
    except FileNotFoundError:
        return None, 0
    except DAMAGE as error:
        raise RunError(f"the report cannot be read ({reason_of(error)})", where=path, fix="Remove it.") from None


def _label(run: Path, runs: Collection[Path]) -> str:
    """The name of a run's directory, or all of its path where another has that name too."""
    return run.name if [other.name for other in runs].count(run.name) == 1 else str(run)


def _curve(label: str, points: Sequence[Point], x: str) -> plots.Curve:
    places = [point.steps or 0 if x == "steps" else point.minutes for point in points]
    scores = np.array([point.score for point in points])
    known = [point.standard_error for point in points if point.standard_error is not None]
    band = (scores - known, scores + known) if len(known) == len(points) else None
    return plots.Curve(label=label, x=places, y=scores, band=band)
