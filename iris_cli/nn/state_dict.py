"""State dicts from files that others wrote: tensors by name, and never code."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from iris_cli.errors import CheckpointError


def read_state_dict(path: Path, *, fix: str) -> dict[str, Tensor]:
    """The state dict in a file. Pickled code is refused, never run.

    Args:
        path: a file as `torch.save` writes it.
        fix: what an error says should be done.

    Raises:
        CheckpointError: if the file is missing, damaged, holds code, or anything but a state dict.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about foreign pickles: the error says enough
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"the file cannot be read: {error.strerror or error}", where=path, fix=fix) from None
    except Exception as error:  # a foreign file can make the unpickler raise anything
        reason = "damaged, or more than tensors in it: " + type(error).__name__
        raise CheckpointError(f"the file cannot be read as weights ({reason})", where=path, fix=fix) from None
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError("the file holds something else than a state dict", where=path, fix=fix)
    return {str(name): value for name, value in content.items()}


def count_named(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many of `pattern`'s names a state dict has, numbered from 0."""
    count = 0
    while pattern.format(count) in state:
        count += 1
    return count
