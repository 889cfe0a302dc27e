"""The chapters of a run's report: what its files and pictures say, as HTML. Nothing is read or written here.

Each chapter takes all runs of the report, so that one run and a comparison are the same page; each part that a run
lacks becomes one sentence.
"""

import math
import shlex
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iris_cli import console
from iris_cli.agents import presets_for
from iris_cli.config import to_mapping
from iris_cli.errors import IrisError
from iris_cli.evaluations import Evaluation, final_of
from iris_cli.html_report.charts import Interval, Line, heat_map, histogram, interval_chart, legend, line_chart
from iris_cli.html_report.markup import Html, data_uri, join, table, tag
from iris_cli.html_report.page import Chapter
from iris_cli.learn.diagnosis import Diagnosis
from iris_cli.learn.hints import Hint
from iris_cli.learn.scores import RANDOM_AND_HUMAN, mean_score
from iris_cli.metrics import is_number, numbers_of
from iris_cli.published import published_scores
from iris_cli.report import Section
from iris_cli.stages.diagnosis_tables import tables
from iris_cli.stages.pictures import CodeUse, Pictures
from iris_cli.stages.run_facts import Facts
from iris_cli.stages.scores import scores
from iris_cli.version import VERSION

KINDS = {".mp4": "video/mp4", ".gif": "image/gif", ".png": "image/png"}
SHOWN_EVALUATIONS = 12
TRAINING = ("train-tokenizer", "train-dynamics", "train-actor-critic", "train-agent")


@dataclass(frozen=True)
class Subject:
    """A run to report on.

    Attributes:
        facts: what its files say.
        pictures: what its agent shows; a sentence where it shows nothing.
        films: its media, the newest first; None where a file is too large for the page.
    """

    facts: Facts
    pictures: Pictures | str
    films: list[tuple[Path, bytes | None]]

    @property
    def name(self) -> str:
        return self.facts.path.name


def title(subjects: Sequence[Subject]) -> str:
    """Of the page."""
    if len(subjects) > 1:
        return f"{len(subjects)} runs compared"
    facts = subjects[0].facts
    return f"{facts.path.name}: {facts.card['agent']} on {facts.game}"


def lead(subjects: Sequence[Subject], notes: Sequence[str]) -> Html:
    """What one should know first."""
    parts = [_card(subjects[0])] if len(subjects) == 1 else [_overview(subjects)]
    unread = [f"{s.name}: {note}" if len(subjects) > 1 else note for s in subjects for note in s.facts.notes]
    parts += [tag("p", _sentence(note), class_="warn") for note in (*notes, *unread)]
    return join(parts)


def chapters(subjects: Sequence[Subject]) -> list[Chapter]:
    """All of them, in order."""
    return [
        Chapter("Scores", _scores(subjects)),
        Chapter("Learning curves", _curves(subjects)),
        Chapter("Losses", _losses(subjects)),
        Chapter("World model", _each(subjects, _world_model)),
        Chapter("Codebook", _codebook(subjects)),
        Chapter("Reconstructions", _each(subjects, _reconstructions)),
        Chapter("Dreams", _each(subjects, _dreams)),
        Chapter("Attention", _each(subjects, _attention)),
        Chapter("Timings and hardware", _each(subjects, _timings)),
        Chapter("Settings", _settings(subjects)),
        Chapter("How to reproduce", _each(subjects, _reproduce)),
    ]


def footer(subjects: Sequence[Subject]) -> Html:
    """Who made the page, and when."""
    made = time.strftime("%Y-%m-%d %H:%M %Z")
    return tag("p", f"Made by iris {VERSION} on {made} from {len(subjects)} run{'s' * (len(subjects) > 1)}. ",
               "The page is whole: it loads nothing and runs no script.")  # fmt: skip


# -- the head --------------------------------------------------------------------------------------------------------


def _card(subject: Subject) -> Html:
    facts = subject.facts
    final = final_of(facts.evaluations)
    seconds = sum(line["seconds"] for line in facts.stages)
    boxes: list[tuple[str, str]] = []
    if final is not None:
        boxes.append((f"{_raw(final.mean)} ± {_raw(final.standard_error)}", f"score, {len(final.scores)} games"))
        if final.game in RANDOM_AND_HUMAN and not final.cut:
            random, human = RANDOM_AND_HUMAN[final.game]
            boxes.append((f"{(final.mean - random) / (human - random):.3f}", "human-normalised (random 0, human 1)"))
    if steps := _collected(facts):
        boxes.append((f"{steps:,}", "environment steps"))
    if updates := _updates(facts):
        boxes.append((f"{sum(updates.values()):,}", "updates in all"))
    if seconds:
        boxes.append((console.duration(seconds), "of work"))
    boxes.append((str(facts.card["config"].get("preset")), f"preset, seed {facts.card['seed']}"))
    return join(
        [
            tag("p", f"{facts.path} · {_standing(facts)} · begun {facts.card['created'][:16].replace('T', ' ')}",
                class_="lead"),
            tag("div", *(tag("div", tag("b", big), tag("span", small), class_="fact") for big, small in boxes),
                class_="facts"),
        ]
    )  # fmt: skip


def _overview(subjects: Sequence[Subject]) -> Html:
    rows = []
    for index, subject in enumerate(subjects):
        facts, final = subject.facts, final_of(subject.facts.evaluations)
        score = "–" if final is None else f"{_raw(final.mean)} ± {_raw(final.standard_error)}"
        games = "–" if final is None else len(final.scores)
        name = join([tag("i", class_=f"key b{index % 8}"), str(facts.path)])
        rows.append([
            name, facts.card["agent"], str(facts.card["config"].get("preset")), facts.game, facts.card["seed"],
            f"{_collected(facts):,}", score, games, _standing(facts),
        ])  # fmt: skip
    columns = ["run", "agent", "preset", "game", "seed", "steps", "score ± s.e.", "games", "state"]
    return table(columns, rows)


def _standing(facts: Facts) -> str:
    if facts.process is not None:
        return "in progress"
    if facts.plan is not None:
        done, every = len(facts.stages), len(facts.plan["stages"])
        return "finished" if done >= every else f"stopped after {done:,} of {every:,} stages"
    return "not being trained now"


# -- scores and curves -----------------------------------------------------------------------------------------------


def _scores(subjects: Sequence[Subject]) -> Html:
    parts: list[Html] = []
    try:
        compared = scores([subject.facts.path for subject in subjects])
    except IrisError as error:
        parts.append(_note(f"No comparison with published scores: {error}"))
        compared = None
    by_game: dict[str, list[tuple[Subject, Evaluation]]] = defaultdict(list)
    for subject in subjects:
        if (final := final_of(subject.facts.evaluations)) is not None:
            by_game[final.game].append((subject, final))
    for game, found in by_game.items():
        parts.append(_beside(game, found, alone=len(by_game) == 1 and len(subjects) == 1))
    if compared is not None:
        if compared["yours"] and compared["yours"]["games"] > 1:
            parts.append(_methods(compared))
        parts += [tag("p", _sentence(warning), class_="warn") for warning in compared["warnings"]]
    return join([*parts, *(_evaluations(subject, many=len(subjects) > 1) for subject in subjects)])


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
            bounds = (mean.low, mean.high) if several else (None, None)
            rows.append(Interval(method, mean.mean, *bounds, note=note))
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
    return join([charts, _note(f"{own}{their}.{where}")])


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
    reports = subject.facts.evaluations
    name = f"{subject.name}: all evaluations" if many else "All evaluations"
    if not reports:
        return _note(f"{subject.name} has not been evaluated yet: iris evaluate --run {subject.facts.path}")
    rows = []
    for one in reports[-SHOWN_EVALUATIONS:]:
        interval = mean_score(one.scores)
        rows.append([
            one.path.stem.removeprefix("evaluate-"), "–" if one.steps is None else f"{one.steps:,}", f"{one.updates:,}",
            len(one.scores), f"{_raw(one.mean)} ± {_raw(one.standard_error)}",
            f"{_raw(interval.low)} to {_raw(interval.high)}", f"{_raw(min(one.scores))} to {_raw(max(one.scores))}",
            "as published" if not one.departures else "; ".join(one.departures),
        ])  # fmt: skip
    columns = ["report", "steps", "updates", "games", "mean ± s.e.", "95 % interval", "worst to best", "protocol"]
    parts = [tag("h3", name), table(columns, rows)]
    if len(reports) > SHOWN_EVALUATIONS:
        parts.append(_note(f"The last {SHOWN_EVALUATIONS} of {len(reports)}."))
    return join(parts)


def _curves(subjects: Sequence[Subject]) -> Html:
    by_game: dict[str, list[tuple[int, Subject]]] = defaultdict(list)
    for index, subject in enumerate(subjects):
        by_game[subject.facts.game].append((index, subject))
    parts = [legend([subject.name for subject in subjects])]
    for game, found in by_game.items():
        lines = [line for index, subject in found for line in _curve(index, subject.facts)]
        if not lines:
            parts.append(_note(f"{game}: there is no evaluation and no collected score to draw yet."))
            continue
        levels = [("random play", RANDOM_AND_HUMAN[game][0])] if game in RANDOM_AND_HUMAN else []
        parts.append(
            line_chart(
                lines, title=f"{game}: mean score of evaluations (dots, ± one standard error) and of collected episodes "
                "(thin)", x_label="environment steps", levels=levels, width=420, height=230, logarithmic=False,
            )
        )  # fmt: skip
        if any(subject.facts.card["environment"].get("life_loss_ends") for _, subject in found):
            parts.append(_note("Collected episodes end with a lost life, evaluations do not: their scores differ."))
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
    known_scores = [(f["steps_in_all"], f["mean_score"]) for f in collected if {"steps_in_all", "mean_score"} <= f.keys()]
    if known_scores:
        xs, scored = zip(*known_scores, strict=True)
        lines.append(Line(label=f"{facts.path.name}, collected", x=xs, y=scored, colour=index, faint=True))
    return lines


def _losses(subjects: Sequence[Subject]) -> Html:
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
                title=_words(name), x_label="updates",
            )
            for name, runs in found[stage].items()
        ]  # fmt: skip
        parts += [tag("h3", stage.removeprefix("train-")), tag("div", *charts, class_="charts")]
    growths = [(s, line) for s in subjects for line in s.facts.lines if line.get("event") == "growth"]
    for subject, line in growths:
        parts.append(
            tag("p", f"{subject.name}: in {line.get('stage')} the {_words(str(line.get('name')))} grew from "
                f"{line.get('usual')} to {line.get('now')} by update {line.get('update')}.", class_="warn")
        )  # fmt: skip
    return join(parts) if found else _note("Nothing has been learned yet: metrics.jsonl has no losses.")


# -- the world model -------------------------------------------------------------------------------------------------


def _world_model(subject: Subject) -> Html:
    content = subject.facts.world_model
    if content is None:
        return _note(f"It has not been measured yet: iris diagnose --run {subject.facts.path}")
    try:
        diagnosis = Diagnosis.from_mapping(content["world_model"])
        found = tuple(Hint(str(hint["part"]), str(hint["text"])) for hint in content["hints"])
        sections = tables(diagnosis, found, title="")[1:]
        chart = _dream_chart(diagnosis)
        held_out = content.get("held_out", content["world_model"].get("held_out"))
        words = (
            f"On {diagnosis.steps:,} steps of {diagnosis.episodes} episodes ({held_out}), checkpoint "
            f"{content.get('checkpoint')}: {Path(content['report']).name}."
        )
    except (KeyError, TypeError, ValueError, AttributeError, IrisError) as error:
        return _note(f"{content['report']} is not as this version writes it ({error}).")
    *measured, advice = (tag("div", _section(section)) for section in sections)
    return join([_note(words), advice, chart, tag("div", *measured, class_="pair")])


def _dream_chart(diagnosis: Diagnosis) -> Html | None:
    dream = diagnosis.dream
    if dream is None:
        return None
    steps = [float(step) for step in range(1, dream.horizon + 1)]
    curves = {"dream": dream.sampled, "last frame, standing still": dream.copy, "reconstruction": dream.reconstruction}
    lines = [Line(label=name, x=steps, y=curve.error, colour=i) for i, (name, curve) in enumerate(curves.items())]
    chart = line_chart(lines, title="Dreams: pixel error after n steps (0 to 1)", x_label="steps", width=400,
                       height=210)  # fmt: skip
    return join([legend(list(curves)), chart])


def _section(section: Section) -> Html:
    wordy = section.title in ("Hints", "Not measured")
    rows = [["–" if cell is None else console.number(cell) for cell in row] for row in section.rows]
    if not wordy:
        return join([tag("h3", section.title), table(section.columns, rows)])
    return join([tag("h3", section.title), *(tag("p", tag("b", row[0]), " – ", row[1]) for row in rows)])


def _codebook(subjects: Sequence[Subject]) -> Html:
    lines, parts = [], [legend([subject.name for subject in subjects])]
    for index, subject in enumerate(subjects):
        use = subject.pictures if isinstance(subject.pictures, str) else subject.pictures.codes
        prefix = f"{subject.name}: " if len(subjects) > 1 else ""
        if not isinstance(use, CodeUse):
            parts.append(_note(f"{prefix}{_sentence(use)}"))
            continue
        total = sum(use.counts)
        shares = [count / total for count in use.counts if count]
        lines.append(Line(label=subject.name, x=[float(i + 1) for i in range(len(shares))], y=shares, colour=index,
                          dots=False))
        parts.append(
            tag("p", f"{prefix}{use.used:,} of {len(use.counts):,} codes occur in the newest {use.frames:,} frames of "
                f"the dataset; their perplexity is {use.perplexity:.1f}.")
        )  # fmt: skip
    if lines:
        parts.append(
            line_chart(
                lines, title="Share of all tokens, codes from the most frequent on",
                x_label="codes", width=400, height=210,
            )
        )  # fmt: skip
    return join(parts)


def _reconstructions(subject: Subject) -> Html:
    found = subject.pictures if isinstance(subject.pictures, str) else subject.pictures.reconstructions
    if isinstance(found, str):
        return _note(_sentence(found))
    words = "a real frame, and what the tokenizer makes of it"
    images = (tag("img", src=data_uri(pair, "image/png"), alt=words, class_="pixels") for pair in found)
    note = _note("Frames of the dataset, real on the left, decoded from their tokens on the right.")
    return join([tag("div", *images, class_="pairs"), note])


def _dreams(subject: Subject) -> Html:
    parts = []
    for path, content in subject.films:
        if content is None:
            parts.append(_note(f"{path} is too large for this page."))
            continue
        kind = KINDS[path.suffix.lower()]
        uri = data_uri(content, kind)
        words = f"{path.name}: real, reconstruction and dream under the same actions from the same start"
        parts.append(tag("figure", _film(uri, kind, words), tag("figcaption", words)))
    if not subject.films and isinstance(subject.pictures, Pictures):
        made = subject.pictures.film
        if isinstance(made, bytes):
            words = "Dreamt for this page: real, reconstruction and dream under the same actions from the same start"
            parts.append(
                tag("figure", _film(data_uri(made, "video/mp4"), "video/mp4", words), tag("figcaption", words))
            )
        else:
            parts.append(_note(_sentence(made)))
    return join(parts) if parts else _note(f"There is no film: iris imagine --run {subject.facts.path}")


def _film(uri: str, kind: str, words: str) -> Html:
    if kind.startswith("image/"):
        return tag("img", src=uri, alt=words)
    return tag("video", src=uri, controls=True, muted=True, loop=True, playsinline=True, preload="auto",
               aria_label=words)  # fmt: skip


def _attention(subject: Subject) -> Html:
    found = subject.pictures if isinstance(subject.pictures, str) else subject.pictures.attention
    if isinstance(found, str):
        return _note(_sentence(found))
    layers, steps = len(found.steps_back), len(found.steps_back[0])
    names = [f"layer {number + 1}" for number in range(layers)]
    back = [str(number) if (number := steps - 1 - step) else "now" for step in range(steps)]
    words = (
        f"Where the dynamics looks when it has read {steps} real steps and the last action, and says what comes next: a "
        "row for each layer, a column for each step, the newest on the right; mean over heads, each row scaled to its "
        "brightest patch."
    )
    image = tag("img", src=data_uri(found.picture, "image/png"), alt=words, class_="pixels map")
    rows = [
        [*row, action] for row, action in zip(found.steps_back, found.actions, strict=True)
    ]  # an action's share is part of its step's
    chart = heat_map(
        rows, title="Share of the attention on each step (steps back), and on all actions", row_labels=names,
        column_labels=[*back, "actions"], width=400,
    )  # fmt: skip
    return join([tag("figure", image, tag("figcaption", words)), chart])


# -- how it was made -------------------------------------------------------------------------------------------------


def _timings(subject: Subject) -> Html:
    facts = subject.facts
    parts: list[Html] = []
    by_stage: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in facts.stages:
        by_stage[line["stage"]].append(line)
    if by_stage:
        total = sum(line["seconds"] for line in facts.stages)
        rows = []
        for stage, lines in sorted(by_stage.items(), key=lambda item: -sum(line["seconds"] for line in item[1])):
            seconds = sum(line["seconds"] for line in lines)
            figures = [numbers_of(line) for line in lines]
            speeds = [(key, f[key]) for f in figures for key in f if key.endswith("_per_second")]
            speed = f"{console.number(float(np.median([v for _, v in speeds])))} {speeds[0][0].split('_')[0]}/s" \
                if speeds else "–"  # fmt: skip
            share = f"{seconds / (total or 1):.1%}".replace("%", " %")
            rows.append([stage, len(lines), console.duration(seconds), share, speed])
        parts.append(table(["stage", "times", "in all", "share", "median speed"], rows))
    else:
        parts.append(_note("No times of stages are recorded: only pipelines write them."))
    if facts.starts:
        rows = []
        for start in facts.starts:
            machine = start.machine
            what = ", ".join(str(machine[key]) for key in ("gpu", "processor") if key in machine)
            size = f"{machine.get('cores')} cores, {machine.get('memory_gb')} GB, {machine.get('system')}"
            versions = ", ".join(f"{name} {value}" for name, value in start.versions.items())
            rows.append([_date(start.time), f"{what} ({size}), on {machine.get('device')}", versions])
        parts.append(table(["started", "machine", "versions"], rows))
    else:
        devices = sorted({str(e.device) for e in facts.evaluations if e.device})
        known = f" Its evaluations ran on {', '.join(devices)}." if devices else ""
        parts.append(_note(f"The machine is not recorded: the run is of an earlier version.{known}"))
    versions = ", ".join(f"{name} {value}" for name, value in facts.card["versions"].items())
    parts.append(_note(f"Made with {versions}."))
    return join(parts)


def _settings(subjects: Sequence[Subject]) -> Html:
    settings = [_flat(subject.facts.card["config"]) for subject in subjects]
    names = list(dict.fromkeys(name for one in settings for name in one))
    if len(subjects) == 1:
        presets = _preset_of(subjects[0].facts)
        changed = {name for name, value in settings[0].items() if presets is not None and presets.get(name) != value}
        groups: dict[str, list[list[Any]]] = defaultdict(list)
        for name in names:
            section, _, short = name.rpartition(".")
            mark = " (not the preset's)" if name in changed else ""
            groups[section].append([short, f"{_plain(settings[0][name])}{mark}"])
        blocks = [
            tag("details", tag("summary", f"{section}, {len(rows)} settings"), table(["", ""], rows))
            for section, rows in groups.items()
            if section
        ]
        words = f"{len(changed)} of them differ from the preset." if changed else "All of them are the preset's."
        if presets is None:
            words = "The preset is not known to this version, so what differs from it is not marked."
        environment = [[name, _plain(value)] for name, value in subjects[0].facts.card["environment"].items()]
        game = tag("details", tag("summary", "environment"), table(["", ""], environment))
        return join([_note(words), *blocks, game])
    missing = object()
    rows = [
        [name, *(_plain(one[name]) if name in one else "–" for one in settings)]
        for name in names
        if any(one.get(name, missing) != settings[0].get(name, missing) for one in settings)
    ]
    if not rows:
        return _note("All settings are the same in these runs.")
    return join([_note("Only what differs."), table(["setting", *(s.name for s in subjects)], rows)])


def _reproduce(subject: Subject) -> Html:
    facts = subject.facts
    parts: list[Html] = []
    commands = list(dict.fromkeys(start.command for start in facts.starts if start.command))
    if commands:
        parts += [_note("What was typed, in this order:"), _code("\n".join(commands))]
    else:
        parts += [
            _note("The commands were not recorded. A run with these settings is made by"), _code(_settings_command(facts)),
            _note("and the stages after it; how many updates each of them did stands above and in metrics.jsonl."),
        ]  # fmt: skip
    if facts.plan is not None and isinstance(facts.plan.get("text"), str):
        summary = tag("summary", f"The pipeline file as it was read: {facts.plan.get('source')}")
        parts.append(tag("details", summary, _code(facts.plan["text"])))
    if (final := final_of(facts.evaluations)) is not None:
        parts += [_note(f"Its final evaluation ({final.path.name}):"), _code(_evaluation_command(facts, final))]
    parts.append(
        _note("On a CPU with the same versions and number of threads the same seed gives the same run; elsewhere, a "
              "run of the same kind.")
    )  # fmt: skip
    return join(parts)


def _settings_command(facts: Facts) -> str:
    card, changes = facts.card, []
    presets, mine = _preset_of(facts) or {}, _flat(facts.card["config"])
    for name, value in mine.items():
        if name in presets and presets[name] != value:
            changes += ["--set", f"{name}={_plain(value).replace(', ', ',')}"]
    words = [
        "iris", "train-agent" if card["agent"] == "twm" else "train-tokenizer", card["dataset"], "--agent",
        card["agent"], "--preset", str(card["config"].get("preset")), "--seed", str(card["seed"]), "--run",
        str(facts.path), *changes,
    ]  # fmt: skip
    return shlex.join(words)


def _evaluation_command(facts: Facts, final: Evaluation) -> str:
    protocol = final.protocol
    words = ["iris", "evaluate", "--run", str(facts.path), "--episodes", str(len(final.scores))]
    for name in ("temperature", "epsilon", "seed", "max_steps", "num_envs"):
        if protocol.get(name) is not None:
            words += [f"--{name.replace('_', '-')}", str(protocol[name])]
    return shlex.join(words)


# -- small things ----------------------------------------------------------------------------------------------------


def _each(subjects: Sequence[Subject], make: Callable[[Subject], Html]) -> Html:
    """The same of each run, under its name where there are several."""
    if len(subjects) == 1:
        return make(subjects[0])
    return join(part for subject in subjects for part in (tag("h3", subject.name), make(subject)))


def _collected(facts: Facts) -> int:
    steps = [numbers_of(line).get("steps_in_all", 0.0) for line in facts.stages]
    saved = (facts.state or {}).get("collected")
    known = saved.get("steps") if isinstance(saved, dict) else None
    return int(max([*steps, float(known) if is_number(known) else 0.0], default=0))  # type: ignore[arg-type]


def _updates(facts: Facts) -> dict[str, int]:
    saved = (facts.state or {}).get("updates")
    return {str(k): int(v) for k, v in saved.items() if is_number(v)} if isinstance(saved, dict) else {}


def _preset_of(facts: Facts) -> dict[str, Any] | None:
    preset = presets_for(facts.card["agent"]).get(str(facts.card["config"].get("preset")))
    return None if preset is None else _flat(to_mapping(preset))


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    return "none" if value is None else str(value)


def _raw(score: float) -> str:
    return "–" if not math.isfinite(score) else f"{score:,.1f}" if abs(score) < 10_000 else f"{score:,.0f}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _sentence(text: str) -> str:
    """With a capital, unless it begins with a path, and a full stop."""
    begun = text if "/" in text.split(" ")[0] else f"{text[:1].upper()}{text[1:]}"
    return begun + ("" if text.endswith(".") else ".")


def _date(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(moment)) + " UTC"


def _note(text: str) -> Html:
    return tag("p", text, class_="note")


def _code(text: str) -> Html:
    return tag("pre", text, tabindex="0")
