"""`iris tokenize`: turn every frame of the dataset into tokens once, stored under the tokenizer's fingerprint.

Later stages use them while that tokenizer stands; tokens of any other one are left alone and never used.
"""

from dataclasses import dataclass

from iris_cli import console, interrupts
from iris_cli.errors import ConfigError, Interrupted
from iris_cli.replay.dataset import Dataset
from iris_cli.report import Report
from iris_cli.run import TOKENIZE_BLOCK, Run
from iris_cli.stages.training import needs_steps, needs_training


@dataclass(frozen=True, kw_only=True)
class Tokenize:
    """Nothing to choose."""


def tokenize(run: Run, settings: Tokenize) -> Report:
    """Store the tokens of all steps of the run's dataset; goes on where an interruption left it."""
    needs_training(run, "tokenizer")
    if not run.agent.frames_have_tokens:
        raise ConfigError(
            f"{run.agent_name} has no tokens of frames to store: it encodes while it learns",
            where=run.directory, fix=f"Go on with: {run.command('train-dynamics')}",
        )  # fmt: skip
    replay = needs_steps(run.replay(), run)
    fingerprint = run.agent.tokenizer.fingerprint()
    with Dataset.open(run.dataset_path, writable=True) as dataset:
        kept = dataset.tokens_length(fingerprint)
        start = min(kept, replay.num_steps)
        with console.progress("tokenize", replay.num_steps, "frames", done=start) as bar:
            for begin in range(start, replay.num_steps, TOKENIZE_BLOCK):
                stop = min(begin + TOKENIZE_BLOCK, replay.num_steps)
                dataset.write_tokens(fingerprint, begin, run.encode_steps(begin, stop).cpu().numpy())
                bar.advance(stop - begin)
                if interrupts.requested() and stop < replay.num_steps:
                    raise Interrupted(
                        f"tokenize stopped after {stop:,} of {replay.num_steps:,} frames, which are kept."
                    )
    run.end("tokenize")
    figures: dict[str, float | int | str] = {
        "frames": replay.num_steps, "already_there": kept, "fingerprint": fingerprint
    }  # fmt: skip
    return Report(stage="tokenize", figures=figures, files={"dataset": run.dataset_path})
