"""The chapters of a run's report, in order, and what stands above and below them. Nothing is read or written here.

Each chapter takes all runs of the report, so that one run and a comparison are the same page; each part that a run
lacks becomes one sentence.
"""

import time
from collections.abc import Sequence

from iris_cli import console
from iris_cli.evaluations import final_of
from iris_cli.html_report.markup import Cell, Html, join, table, tag
from iris_cli.html_report.page import Chapter
from iris_cli.learn.scores import RANDOM_AND_HUMAN
from iris_cli.stages.report_making import reproduce, settings, timings
from iris_cli.stages.report_scores import curves, losses, scores_of
from iris_cli.stages.report_subject import (
    Subject,
    collected,
    each,
    score_words,
    sentence,
    standing,
    updates_of,
)
from iris_cli.stages.report_world import attention, codebook, dreams, reconstructions, world_model
from iris_cli.version import VERSION


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
    parts += [tag("p", sentence(note), class_="warn") for note in (*notes, *unread)]
    return join(parts)


def chapters(subjects: Sequence[Subject]) -> list[Chapter]:
    """All of them, in order."""
    return [
        Chapter("Scores", scores_of(subjects)),
        Chapter("Learning curves", curves(subjects)),
        Chapter("Losses", losses(subjects)),
        Chapter("World model", each(subjects, world_model)),
        Chapter("Codebook", codebook(subjects)),
        Chapter("Reconstructions", each(subjects, reconstructions)),
        Chapter("Dreams", each(subjects, dreams)),
        Chapter("Attention", each(subjects, attention)),
        Chapter("Timings and hardware", each(subjects, timings)),
        Chapter("Settings", settings(subjects)),
        Chapter("How to reproduce", each(subjects, reproduce)),
    ]


def footer(subjects: Sequence[Subject]) -> Html:
    """Who made the page, and when."""
    made = time.strftime("%Y-%m-%d %H:%M %Z")
    return tag("p", f"Made by iris {VERSION} on {made} from {len(subjects)} run{'s' * (len(subjects) > 1)}. ",
               "The page is whole: it loads nothing and runs no script.")  # fmt: skip


def _card(subject: Subject) -> Html:
    facts = subject.facts
    final = final_of(facts.evaluations)
    seconds = sum(line["seconds"] for line in facts.stages)
    boxes: list[tuple[str, str]] = []
    if final is not None:
        words = f"score, {len(final.scores)} games" + (f", {final.cut} of them cut" if final.cut else "")
        boxes.append((f"{score_words(final.mean)} ± {score_words(final.standard_error)}", words))
        if final.game in RANDOM_AND_HUMAN and not final.cut:
            random, human = RANDOM_AND_HUMAN[final.game]
            boxes.append((f"{(final.mean - random) / (human - random):.3f}", "human-normalised (random 0, human 1)"))
    if steps := collected(facts):
        boxes.append((f"{steps:,}", "environment steps"))
    if updates := updates_of(facts):
        boxes.append((f"{sum(updates.values()):,}", "updates in all"))
    if seconds:
        boxes.append((console.duration(seconds), "of work"))
    boxes.append((str(facts.card["config"].get("preset")), f"preset, seed {facts.card['seed']}"))
    return join(
        [
            tag("p", f"{facts.path} · {standing(facts)} · begun {facts.card['created'][:16].replace('T', ' ')}",
                class_="lead"),
            tag("div", *(tag("div", tag("b", big), tag("span", small), class_="fact") for big, small in boxes),
                class_="facts"),
        ]
    )  # fmt: skip


def _overview(subjects: Sequence[Subject]) -> Html:
    rows: list[Sequence[Cell]] = []
    for index, subject in enumerate(subjects):
        facts, final = subject.facts, final_of(subject.facts.evaluations)
        score = "–" if final is None else f"{score_words(final.mean)} ± {score_words(final.standard_error)}"
        games = "–" if final is None else len(final.scores)
        name = join([tag("i", class_=f"key b{index % 8}"), str(facts.path)])
        rows.append([
            name, facts.card["agent"], str(facts.card["config"].get("preset")), facts.game, facts.card["seed"],
            f"{collected(facts):,}", score, games, standing(facts),
        ])  # fmt: skip
    columns = ["run", "agent", "preset", "game", "seed", "steps", "score ± s.e.", "games", "state"]
    return table(columns, rows)
