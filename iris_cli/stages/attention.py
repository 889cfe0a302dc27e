"""`iris attention`: what a run's dynamics looks at when it predicts, as a picture and a table. Nothing else is written.

The agent measures itself on the first steps of a dataset (`Agent.attention`).
"""

from dataclasses import dataclass
from pathlib import Path

from iris_cli import console, interrupts, plots
from iris_cli.errors import ConfigError, Interrupted
from iris_cli.object_store import Location
from iris_cli.report import Report, Section
from iris_cli.run import Run
from iris_cli.stages.diagnose import stored
from iris_cli.stages.training import needs_training

STEPS = 5000  # of the dataset, from which predictions are drawn
_AGO = (0, 1, 2, 3, 5, 10)  # steps ago that the table shows, and the last one


@dataclass(frozen=True, kw_only=True)
class AttentionMap:
    """What to look into."""

    predictions: int = 500  # at most
    dataset: Location | None = None  # None: the run's
    seed: int = 0  # of which predictions

    def __post_init__(self) -> None:
        if self.predictions < 1 or self.seed < 0:
            raise ConfigError("predictions must be at least 1 and seed not negative", where="attention")


def attention(run: Run, settings: AttentionMap, out: Path) -> Report:
    """Measure and draw.

    Raises:
        ConfigError: for a picture of another kind.
        RunError: if tokenizer or dynamics were never trained.
        DatasetError: if the dataset is empty, or of another environment.
        Interrupted: after Ctrl-C; nothing is written.
    """
    for component in ("tokenizer", "dynamics"):
        needs_training(run, component)
    plots.check(out)
    episodes = stored(run, settings.dataset or run.dataset_path, steps=STEPS)
    steps = sum(map(len, episodes))
    with console.progress("attention", min(settings.predictions, steps), "predictions") as bar:

        def watch(predictions: int) -> None:
            bar.advance(predictions)
            if interrupts.requested():
                raise Interrupted("attention stopped; nothing was written.")

        found = run.agent.attention(episodes, most=settings.predictions, seed=settings.seed, watch=watch)
    title = f"{run.agent_name}, {run.environment.name}"
    plots.attention_map(out, found.weights, found.kinds, title=title, predictions=found.predictions)
    mean = found.weights.mean(0)  # (kinds, span)
    shown = sorted({ago for ago in (*_AGO, mean.shape[1] - 1) if ago < mean.shape[1]})
    rows = tuple(
        (kind, _percent(row.sum()), *(_percent(row[ago]) for ago in shown))
        for kind, row in zip(found.kinds, mean, strict=True)
    )
    columns = ("", "in all", *(f"{ago} steps ago" for ago in shown))
    section = Section(f"Attention, the mean over layers and {found.predictions:,} predictions", columns, rows)
    figures: dict[str, float | int | str] = {
        f"attention_{kind}": float(row.sum()) for kind, row in zip(found.kinds, mean, strict=True)
    }
    return Report(stage="attention", figures=figures, sections=(section,), files={"picture": out})


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")
