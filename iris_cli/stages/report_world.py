"""Chapters of a report: the world model measured and looked at."""

from collections.abc import Sequence
from pathlib import Path

from iris_cli import console
from iris_cli.errors import IrisError
from iris_cli.html_report.charts import Line, heat_map, legend, line_chart
from iris_cli.html_report.markup import Html, data_uri, join, table, tag
from iris_cli.learn.diagnosis import Diagnosis
from iris_cli.learn.hints import Hint
from iris_cli.report import Section
from iris_cli.stages.diagnosis_tables import tables
from iris_cli.stages.pictures import CodeUse, Pictures
from iris_cli.stages.report_subject import (
    Subject,
    remark,
    sentence,
)

KINDS = {".mp4": "video/mp4", ".gif": "image/gif", ".png": "image/png"}


def world_model(subject: Subject) -> Html:
    content = subject.facts.world_model
    if content is None:
        return remark(f"It has not been measured yet: iris diagnose --run {subject.facts.path}")
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
        return remark(f"{content['report']} is not as this version writes it ({error}).")
    *measured, advice = (tag("div", _section(section)) for section in sections)
    return join([remark(words), advice, chart, tag("div", *measured, class_="pair")])


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


def codebook(subjects: Sequence[Subject]) -> Html:
    lines, parts = [], [legend([subject.name for subject in subjects])]
    for index, subject in enumerate(subjects):
        use = subject.pictures if isinstance(subject.pictures, str) else subject.pictures.codes
        prefix = f"{subject.name}: " if len(subjects) > 1 else ""
        if not isinstance(use, CodeUse):
            parts.append(remark(f"{prefix}{sentence(use)}"))
            continue
        total = sum(use.counts)
        shares = [count / total for count in use.counts if count]
        lines.append(
            Line(label=subject.name, x=[float(i + 1) for i in range(len(shares))], y=shares, colour=index, dots=False)
        )
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


def reconstructions(subject: Subject) -> Html:
    found = subject.pictures if isinstance(subject.pictures, str) else subject.pictures.reconstructions
    if isinstance(found, str):
        return remark(sentence(found))
    words = "a real frame, and what the tokenizer makes of it"
    images = (tag("img", src=data_uri(pair, "image/png"), alt=words, class_="pixels") for pair in found)
    note = remark("Frames of the dataset, real on the left, decoded from their tokens on the right.")
    return join([tag("div", *images, class_="pairs"), note])


def dreams(subject: Subject) -> Html:
    parts = []
    for path, content in subject.films:
        if content is None:
            parts.append(remark(f"{path} is too large for this page."))
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
            parts.append(remark(sentence(made)))
    return join(parts) if parts else remark(f"There is no film: iris imagine --run {subject.facts.path}")


def _film(uri: str, kind: str, words: str) -> Html:
    if kind.startswith("image/"):
        return tag("img", src=uri, alt=words)
    return tag("video", src=uri, controls=True, muted=True, loop=True, playsinline=True, preload="auto",
               aria_label=words)  # fmt: skip


def attention(subject: Subject) -> Html:
    found = subject.pictures if isinstance(subject.pictures, str) else subject.pictures.attention
    if isinstance(found, str):
        return remark(sentence(found))
    layers, steps = len(found.steps_back), len(found.steps_back[0])
    names = [f"layer {number + 1}" for number in range(layers)]
    back = [str(number) if (number := steps - 1 - step) else "now" for step in range(steps)]
    words = (
        f"Where the dynamics looks when it has read {steps} real steps and the last action, and says what comes "
        "next: a row for each layer, a column for each step, the newest on the right; mean over heads, each row "
        "scaled to its brightest patch."
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
