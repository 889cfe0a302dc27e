"""Weights & Biases: offline in `runs/NAME/wandb`, to be sent by `wandb sync`, unless WANDB_MODE says otherwise."""

import os
from pathlib import Path

import wandb

from iris_cli.loggers.records import Logger, Origin, Record


def begin(directory: Path, origin: Origin) -> Logger:
    """Goes on with the run of the same id."""
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "iris"), name=origin.name, id=origin.id, resume="allow",
        config=origin.settings, dir=str(directory), mode=os.environ.get("WANDB_MODE", "offline"),
        settings=wandb.Settings(console="off", silent=True),
    )  # fmt: skip
    return _Wandb(run)


class _Wandb:
    def __init__(self, run: "wandb.Run") -> None:
        self._run, self._stages = run, set[str]()

    def write(self, records: list[Record]) -> None:
        for record in records:
            if record.stage not in self._stages:
                self._stages.add(record.stage)
                self._run.define_metric(f"{record.stage}/*", step_metric=f"{record.stage}/step")
            named = {f"{record.stage}/{name}": value for name, value in record.values.items()}
            self._run.log({**named, f"{record.stage}/step": record.step}, step=record.number)

    def close(self) -> None:
        self._run.finish()
