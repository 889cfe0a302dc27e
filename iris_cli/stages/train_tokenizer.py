"""`iris train-tokenizer`: fit the autoencoder, to single frames or to transitions, as the agent draws them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from iris_cli import console
from iris_cli.learn.fit import Part
from iris_cli.learn.visits import Visits
from iris_cli.nn.lpips import LPIPS, load_lpips
from iris_cli.progress import Progress
from iris_cli.report import Report
from iris_cli.run import Run
from iris_cli.stages.fetch import default_lpips_path
from iris_cli.stages.training import needs_steps, train


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

    visits = run.visits("tokenizer")

    def compute(agent: Any, progress: Progress) -> Iterator[Part]:
        return agent.tokenizer_parts(replay, progress.draws, config.batch_size, visits=visits, perceptual=perceptual)

    def probe(agent: Any, progress: Progress) -> tuple[Part, float]:
        count = min(16, config.batch_size)
        agent.tokenizer.train()
        parts = agent.tokenizer_parts(replay, progress.draws, count, visits=Visits([]), perceptual=perceptual)
        part = next(parts)
        return part, part.share * count / config.batch_size

    report = train(
        run, "train-tokenizer", "tokenizer", settings.updates, compute,
        probe=probe, after_update=run.agent.tokenizer.update_codebook,
    )  # fmt: skip
    report.figures["loss"] = run.tokenizer_loss or "-"
    return report


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
