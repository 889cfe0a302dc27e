"""`iris train-tokenizer`: fit the autoencoder, to single frames or to transitions, as the agent draws them."""

from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from iris_cli import console
from iris_cli.learn.fit import Steps
from iris_cli.learn.visits import Visits
from iris_cli.nn.lpips import LPIPS, load_lpips
from iris_cli.progress import Progress
from iris_cli.report import Report
from iris_cli.run import Run
from iris_cli.stages.fetch import default_lpips_path
from iris_cli.stages.training import Batch, Lesson, needs_steps, train


@dataclass(frozen=True, kw_only=True)
class TrainTokenizer:
    """How long to train."""

    updates: int | None = None  # None: one for each step of the dataset, less on a CPU


def train_tokenizer(run: Run, settings: TrainTokenizer) -> Report:
    """Train the run's tokenizer on its dataset."""
    replay, config = needs_steps(run.replay(), run), run.config.tokenizer
    path = _perceptual_path(run)
    perceptual = None if path is None else _loaded(path, run.device)
    announce_loss(run)

    def draw(progress: Progress, count: int, visits: Visits) -> Batch:
        return run.agent.tokenizer_batch(replay, progress.draws, count, visits=visits)

    lesson = Lesson(
        "train-tokenizer", "tokenizer", draw, partial(losses, perceptual=perceptual), config.batch_size, probe_size=16
    )
    after_update = getattr(run.agent.tokenizer, "update_codebook", lambda: None)  # not every agent has one
    report = train(run, lesson, settings.updates, after_update=after_update)
    report.figures["loss"] = run.tokenizer_loss or "-"
    return report


def losses(agent: Any, batch: Batch, progress: Progress, *, perceptual: LPIPS | None) -> Steps:
    """The optimizer steps on a batch of frames or segments."""
    return agent.tokenizer_losses(batch, perceptual=perceptual)


def announce_loss(run: Run) -> None:
    """Say which loss the tokenizer learns by, and record it, where that is news and the agent has a choice."""
    if not hasattr(run.config.tokenizer, "lpips"):
        run.tokenizer_loss = run.tokenizer_loss or "published"
        return
    path, before = _perceptual_path(run), run.tokenizer_loss
    loss = "weights-free" if path is None else "published"
    if before is not None and before.rpartition(", then ")[2].partition(",")[0] == loss:  # "published, imported" is so
        return
    if path is None:
        console.say(
            "Tokenizer loss: L1 + L2 + max-pixel, for want of perceptual weights. "
            "For the published L1 + LPIPS: iris fetch lpips"
        )
    else:
        console.say(f"Tokenizer loss: the published L1 + LPIPS, with the weights in {path}.")
    if before is not None and not run.is_trained("tokenizer"):
        before = None  # announced, but nothing was learned by it
    if before is not None:
        console.warn(f"up to update {run.updates['tokenizer']:,} the loss was: {before}")
    run.tokenizer_loss = loss if before is None else f"{before}, then {loss}"


def _perceptual_path(run: Run) -> Path | None:
    match getattr(run.config.tokenizer, "lpips", "none"):  # not every agent has them
        case "none":
            return None
        case "auto":
            return default_lpips_path() if default_lpips_path().exists() else None
        case name:
            return run.directory / name  # which is the name itself where that is absolute


@lru_cache(maxsize=1)
def _loaded(path: Path, device: torch.device) -> LPIPS:
    """The perceptual network, its dropout on as published. Kept, since every round of a pipeline needs it."""
    return load_lpips(path).to(device).train()
