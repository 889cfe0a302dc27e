"""Every error that a user can cause: what happened, where, and what to do.

    IrisError
    ├── ConfigError        a setting, a YAML file or an option
    ├── EnvironmentError_  a game or Gymnasium id                 (named so as not to hide the builtin)
    ├── DatasetError       a dataset on disk
    ├── RunError           a run directory or its checkpoints
    ├── StoreError         an object store that refuses or does not answer
    ├── CheckpointError    a file of weights from elsewhere
    ├── TrainingError      numbers that went wrong while learning
    ├── ProcessError       one of several processes that train together
    ├── PlayError          what a person at the page asked for and cannot have
    └── ShapeError         arguments of the Python surface

`cli.py` turns them into one line and exit code 1, and the page of `iris play` shows them; nothing else catches them.
"""

import re
from pathlib import PurePath

from iris_cli.aliases import named

# What reading a file raises that is missing, cut off, garbage, or nested until the parser gives up.
DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


class IrisError(Exception):
    """An error with a cause a user can mend.

    Args:
        what: what happened, without a full stop.
        where: the file, directory or setting it concerns.
        fix: one sentence that says what to do.
    """

    def __init__(self, what: str, *, where: str | PurePath | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        sentence = what.rstrip(".") + "."
        if where is not None:
            sentence += f" In {where}."
        if fix is not None:
            sentence += f" {fix}"
        super().__init__(named(sentence))


class ConfigError(IrisError):
    """A setting, a YAML file or an option is wrong."""


class EnvironmentError_(IrisError):
    """A game or environment is unknown or cannot be used."""


class DatasetError(IrisError):
    """A dataset is missing, foreign, damaged or too small."""


class RunError(IrisError):
    """A run directory is missing, damaged or lacks an earlier stage."""


class StoreError(IrisError):
    """An object store refuses, or does not answer."""


class CheckpointError(IrisError):
    """A file of weights from elsewhere cannot be used."""


class TrainingError(IrisError):
    """A loss or gradient is not finite."""


class ProcessError(IrisError):
    """Another process that trains together with this one is gone or silent."""


class PlayError(IrisError):
    """What a person at the page asked for cannot be done."""


class ShapeError(IrisError, ValueError):
    """An argument of the Python surface has the wrong shape or type."""


class Interrupted(Exception):
    """Ctrl-C was pressed, and the work so far is saved. Not an error: the CLI prints it and exits with 130."""


def reason_of(error: BaseException) -> str:
    """Why something failed, in a line: what the system says without the number and the path, which `where` tells."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(said.split())[:200]


def out_of_memory(error: BaseException) -> IrisError | None:
    """What to tell of a device or a machine whose memory was too small; None where this is another error.

    torch is not imported for it: its errors are known by name, on the CPU by what they say.
    """
    words = str(error)
    if type(error).__name__ == "OutOfMemoryError":
        what = "the memory of the device is too small"
    elif isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "can't allocate memory" in words):
        what = "the memory of the machine is too small"
    else:
        return None
    asked = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", words)
    return IrisError(
        what + (f" ({asked[1]} more were asked for)" if asked else ""),
        fix="The last checkpoint stands, and the same command goes on from it. Smaller batches need less: --set "
        "dynamics.batch_size=N, and so on; IRIS_FRAMES=memory or disk leaves the device to the networks; iris bench "
        "says what each part needs.",
    )
