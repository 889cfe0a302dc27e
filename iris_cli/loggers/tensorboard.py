"""TensorBoard: event files in `runs/NAME/tensorboard`, so that `tensorboard --logdir runs` shows all runs."""

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter  # needs the package tensorboard

from iris_cli.loggers.records import Logger, Origin, Record


def begin(directory: Path, origin: Origin) -> Logger:
    """An event file of its own, beside those of earlier processes."""
    return _TensorBoard(directory)


class _TensorBoard:
    def __init__(self, directory: Path) -> None:
        self._writer = SummaryWriter(str(directory))

    def write(self, records: list[Record]) -> None:
        for record in records:
            for name, value in record.values.items():
                self._writer.add_scalar(f"{record.stage}/{name}", value, record.step, walltime=record.time)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
