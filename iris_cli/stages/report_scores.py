"""Chapters of a report: scores beside published ones, learning curves, losses."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from iris_cli.errors import IrisError
from iris_cli.evaluations import Evaluation, final_of
from iris_cli.html_report.charts import Interval, Line, histogram, interval_chart, legend, line_chart
from iris_cli.html_report.markup import Cell, Html, join, table, tag
from iris_cli.learn.scores import RANDOM_AND_HUMAN, mean_score
from iris_cli.metrics import is_number, numbers_of
from iris_cli.published import published_scores
from iris_cli.stages.report_subject import (
    Subject,
    remark,
    score_words,
    sentence,
    words_of,
)
from iris_cli.stages.run_facts import Facts
from iris_cli.stages.scores import scores

SHOWN_EVALUATIONS = 12
TRAINING = ("train-tokenizer", "train-dynamics", "train-actor-critic", "train-agent")


def scores_of(subjects: Sequence[Subject]) -> Html:
    parts: list[Html] = []
    by_game: dict[str, list[tuple[Subject, Evaluation]]] = defaultdict(list)
    for subject in subjects:
        if (final := final_of(subject.facts.evaluations)) is not None:
            by_game[final.game].append((subject, final))
    compared = _compared(subjects, parts) if by_game.keys() & RANDOM_AND_HUMAN.keys() else None
    for game, found in by_game.items():
        parts.append(_beside(game, found, alone=len(by_game) == 1 and len(subjects) == 1))
    if compared is not None:
        if compared["yours"] and compared["yours"]["games"] > 1:
            parts.append(_methods(compared))
        parts += [tag("p", sentence(warning), class_="warn") for warning in compared["warnings"]]
    return join([*parts, *(_evaluations(subject, many=len(subjects) > 1) for subject in subjects)])


def _compared(subjects: Sequence[Subject], parts: list[Html]) -> dict[str, Any] | None:
    """As `iris scores`; adds a remark where there is nothing to compare."""
    try:
        return scores([subject.facts.path for subject in subjects])
    except IrisError as error:
        parts.append(remark(f"No comparison with published scores: {error}"))
        return None


def _beside(game: str, found: Sequence[tuple[Subject, Evaluation]], *, alone: bool) -> Html:
    """A row for each run, and for each published method below."""
    rows = []
    for subject, final in found:
        interval = mean_score(final.scores)
        words = f"{len(final.scores)} games" + "".join(f", {word}" for word in final.departures)
        label = "this run" if alone else subject.name
        rows.append(Interval(label, final.mean, interval.low, interval.high, strong=True, note=words))
    levels: list[tuple[str, float]] = []
    if game in RANDOM_AND_HUMAN:
        levels = list(zip(("random", "human"), RANDOM_AND_HUMAN[game], strict=True))
        theirs = [(method, games[game]) for method, games in published_scores().items()]
        for method, values in sorted(theirs, key=lambda item: -float(np.mean(item[1]))):
            mean = mean_score(values)
            several = len(values) > 1
            note = f"{len(values)} runs" if several else "one number"
            low, high = (mean.low, mean.high) if several else (None, None)
            rows.append(Interval(method, mean.mean, low, high, note=note))
    chart = interval_chart(rows, title=f"{game}: mean score and 95 % bootstrap interval", levels=levels)
    games = [
        histogram(
            final.scores, title=f"{'' if alone else subject.name + ': '}scores of the {len(final.scores)} games of the "
            "final evaluation", x_label="score",
        )
        for subject, final in found
    ]  # fmt: skip
    charts = tag("div", chart, tag("div", *games, class_="stack"), class_="pair")
    own = "Intervals of these runs are over the games of their final evaluation"
    their = ", those of published methods over runs (seeds); dots without a line are single numbers" if levels else ""
    where = "" if levels else f" There are no published scores for {game}."
    return join([charts, remark(f"{own}{their}.{where}")])


def _methods(compared: dict[str, Any]) -> Html:
    rows = []
    rivals = sorted(compared["published_on_your_games"].items(), key=lambda item: -item[1]["iqm"])
    for name, figures in [("yours", compared["yours"]), *rivals]:
        intervals = figures["intervals"] or {}
        cells = []
        for key in ("mean", "median", "iqm", "optimality_gap"):
            bounds = intervals.get(key)
            cells.append(f"{figures[key]:.3f}" + (f" ({bounds[0]:.2f} to {bounds[1]:.2f})" if bounds else ""))
        rows.append([name, figures["runs"], *cells, figures["superhuman"]])
    columns = ["method", "runs", "mean", "median", "IQM", "optimality gap", "superhuman"]
    return join([tag("h3", f"Human-normalised, on {compared['yours']['games']} games"), table(columns, rows)])


def _evaluations(subject: Subject, *, many: bool) -> Html:
    rows: list[Sequence[Cell]] = []
    reports = subject.facts.evaluations
    name = f"{subject.name}: all evaluations" if many else "All evaluations"
    if not reports:
        return remark(f"{subject.name} has not been evaluated yet: iris evaluate --run {subject.facts.path}")
    for one in reports[-SHOWN_EVALUATIONS:]:
        interval = mean_score(one.scores)
        steps = "–" if one.steps is None else f"{one.steps:,}"
        mean, error, low, high, worst, best = (
            score_words(score)
            for score in (one.mean, one.standard_error, interval.low, interval.high, min(one.scores), max(one.scores))
        )
        protocol = "; ".join(one.departures) or "as published"
        rows.append([
            one.path.stem.removeprefix("evaluate-"), steps, f"{one.updates:,}", len(one.scores), f"{mean} ± {error}",
            f"{low} to {high}", f"{worst} to {best}", protocol,
        ])  # fmt: skip
    columns = ["report", "steps", "updates", "games", "mean ± s.e.", "95 % interval", "worst to best", "protocol"]
    parts = [tag("h3", name), table(columns, rows)]
    if len(reports) > SHOWN_EVALUATIONS:
        parts.append(remark(f"The last {SHOWN_EVALUATIONS} of {len(reports)}."))
    return join(parts)


def curves(subjects: Sequence[Subject]) -> Html:
    by_game: dict[str, list[tuple[int, Subject]]] = defaultdict(list)
    for index, subject in enumerate(subjects):
        by_game[subject.facts.game].append((index, subject))
    parts = [legend([subject.name for subject in subjects])]
    for game, found in by_game.items():
        lines = [line for index, subject in found for line in _curve(index, subject.facts)]
        if not lines:
            parts.append(remark(f"{game}: there is no evaluation and no collected score to draw yet."))
            continue
        levels = [("random play", RANDOM_AND_HUMAN[game][0])] if game in RANDOM_AND_HUMAN else []
        parts.append(
            line_chart(
                lines, title=f"{game}: mean score of evaluations (dots, ± one standard error) and of collected "
                "episodes (thin)", x_label="environment steps", levels=levels, width=420, height=230, logarithmic=False,
            )
        )  # fmt: skip
        if any(subject.facts.card["environment"].get("life_loss_ends") for _, subject in found):
            parts.append(remark("Collected episodes end with a lost life, evaluations do not: their scores differ."))
    return join(parts)


def _curve(index: int, facts: Facts) -> list[Line]:
    lines = []
    points = [point for point in facts.points if point.steps is not None]
    if points:
        errors = [point.standard_error for point in points]
        ys = [point.score for point in points]
        known = [error for error in errors if error is not None]
        band = len(known) == len(points) > 1
        lines.append(
            Line(
                label=f"{facts.path.name}, evaluation", x=[float(point.steps or 0) for point in points], y=ys,
                low=[y - e for y, e in zip(ys, known, strict=True)] if band else None,
                high=[y + e for y, e in zip(ys, known, strict=True)] if band else None, colour=index,
            )
        )  # fmt: skip
    collected = [numbers_of(line) for line in facts.stages if line["stage"] == "collect"]
    known_scores = [
        (f["steps_in_all"], f["mean_score"]) for f in collected if {"steps_in_all", "mean_score"} <= f.keys()
    ]
    if known_scores:
        xs, scored = zip(*known_scores, strict=True)
        lines.append(Line(label=f"{facts.path.name}, collected", x=xs, y=scored, colour=index, faint=True))
    return lines


def losses(subjects: Sequence[Subject]) -> Html:
    # stage -> metric -> run -> (updates, values)
    found: dict[str, dict[str, dict[int, tuple[list[float], list[float]]]]] = {}
    for index, subject in enumerate(subjects):
        for line in subject.facts.lines:
            if line.get("stage") in TRAINING and "event" not in line and is_number(line.get("update")):
                for name, value in numbers_of(line).items():
                    of_stage = found.setdefault(line["stage"], {}).setdefault(name, {})
                    xs, ys = of_stage.setdefault(index, ([], []))
                    xs.append(float(line["update"]))
                    ys.append(value)
    parts = [legend([subject.name for subject in subjects])]
    for stage in (stage for stage in TRAINING if stage in found):
        charts = [
            line_chart(
                [Line(label=subjects[i].name, x=xs, y=ys, colour=i) for i, (xs, ys) in runs.items()],
                title=words_of(name), x_label="updates",
            )
            for name, runs in found[stage].items()
        ]  # fmt: skip
        parts += [tag("h3", stage.removeprefix("train-")), tag("div", *charts, class_="charts")]
    growths = [(s, line) for s in subjects for line in s.facts.lines if line.get("event") == "growth"]
    for subject, line in growths:
        parts.append(
            tag("p", f"{subject.name}: in {line.get('stage')} the {words_of(str(line.get('name')))} grew from "
                f"{line.get('usual')} to {line.get('now')} by update {line.get('update')}.", class_="warn")
        )  # fmt: skip
    return join(parts) if found else remark("Nothing has been learned yet: metrics.jsonl has no losses.")
