"""Every error that a user can cause: what happened, where, and what to do.

    IrisError
    ├── ConfigError        a setting, a YAML file or an option
    ├── EnvironmentError_  a game or Gymnasium id                 (named so as not to hide the builtin)
    ├── DatasetError       a dataset on disk
    ├── RunError           a run directory or its checkpoints
    ├── CheckpointError    a file of weights from elsewhere
    ├── TrainingError      numbers that went wrong while learning
    ├── PlayError          what a person at the page asked for and cannot have
    └── ShapeError         arguments of the Python surface

`cli.py` turns them into one line and exit code 1, and the page of `iris play` shows them; nothing else catches them.
"""

from pathlib import Path

# What reading a file raises that is missing, cut off, garbage, or nested until the parser gives up.
DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


class IrisError(Exception):
    """An error with a cause a user can mend.

    Args:
        what: what happened, without a full stop.
        where: the file, directory or setting it concerns.
        fix: one sentence that says what to do.
    """

    def __init__(self, what: str, *, where: str | Path | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        sentence = what.rstrip(".") + "."
        if where is not None:
            sentence += f" In {where}."
        if fix is not None:
            sentence += f" {fix}"
        super().__init__(sentence)


class ConfigError(IrisError):
    """A setting, a YAML file or an option is wrong."""


class EnvironmentError_(IrisError):
    """A game or environment is unknown or cannot be used."""


class DatasetError(IrisError):
    """A dataset is missing, foreign, damaged or too small."""


class RunError(IrisError):
    """A run directory is missing, damaged or lacks an earlier stage."""


class CheckpointError(IrisError):
    """A file of weights from elsewhere cannot be used."""


class TrainingError(IrisError):
    """A loss or gradient is not finite."""


class PlayError(IrisError):
    """What a person at the page asked for cannot be done."""


class ShapeError(IrisError, ValueError):
    """An argument of the Python surface has the wrong shape or type."""


class Interrupted(Exception):
    """Ctrl-C was pressed, and the work so far is saved. Not an error: the CLI prints it and exits with 130."""
