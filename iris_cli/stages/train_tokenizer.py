"""`iris train-tokenizer`: fit the frame autoencoder to single frames, drawn uniformly over episodes.

Source: fact sheet of IRIS, sections 2.5 and 6.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iris_cli import console
from iris_cli.learn.fit import Part
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
    perceptual = _perceptual(run)

    def compute(agent: Any, progress: Progress) -> Iterator[Part]:
        frames = replay.random_frames(config.batch_size, progress.draws)
        for share in frames.split(config.micro_batch):
            yield Part(agent.tokenizer.loss(share, perceptual=perceptual), len(share) / len(frames))

    def probe(agent: Any, progress: Progress) -> tuple[Part, float]:
        count = min(16, config.batch_size)
        frames = replay.random_frames(count, progress.draws)
        agent.tokenizer.train()
        return Part(agent.tokenizer.loss(frames, perceptual=perceptual), 1.0), count / config.batch_size

    report = train(
        run, "train-tokenizer", "tokenizer", settings.updates, compute,
        probe=probe, after_update=run.agent.tokenizer.update_codebook,
    )  # fmt: skip
    report.figures["loss"] = run.tokenizer_loss or "-"
    return report


def _perceptual(run: Run) -> LPIPS | None:
    """The weights of the perceptual loss, or None and one line that says so; recorded in the run."""
    setting = run.config.tokenizer.lpips
    path = default_lpips_path() if setting == "auto" else None if setting == "none" else Path(setting)
    if path is None or (setting == "auto" and not path.exists()):
        loss, weights = "weights-free", None
        message = (
            "train-tokenizer: no perceptual weights, so the loss is L1 + L2 + max-pixel instead of the published "
            "L1 + LPIPS. For the published one: iris fetch lpips"
        )
    else:
        loss, weights = "published", load_lpips(path).to(run.device).train()  # its dropout is on, as published
        message = f"train-tokenizer: the published loss, with the perceptual weights in {path}."
    if loss != run.tokenizer_loss:
        console.say(message)
        if run.updates["tokenizer"] and run.tokenizer_loss:
            console.warn(f"up to update {run.updates['tokenizer']:,} the loss was {run.tokenizer_loss}")
            loss = f"{run.tokenizer_loss}, then {loss}"
    run.tokenizer_loss = loss
    return weights
