"""Files that other programs wrote with `torch.save`: whatever they hold, but never code."""

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iris_cli.errors import CheckpointError, reason_of


def read_foreign(path: Path, *, fix: str) -> Any:
    """What is in a file, tensors on the CPU. Pickled code is refused, never run.

    Args:
        path: a file as `torch.save` writes it.
        fix: what an error says should be done.

    Raises:
        CheckpointError: if the file is missing, damaged, or holds code.
    """
    _refuse_packed(path, fix)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about foreign pickles: the error says enough
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"the file cannot be read: {reason_of(error)}", where=path, fix=fix) from None
    except Exception as error:  # a foreign file can make the unpickler raise anything
        reason = "damaged, or more than tensors in it: " + type(error).__name__
        raise CheckpointError(f"the file cannot be read as weights ({reason})", where=path, fix=fix) from None


def _refuse_packed(path: Path, fix: str) -> None:
    """torch.save never packs what it writes; what is packed may unpack to any size."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception:  # an older format, or none: torch will say
        return
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError("the file is packed, which torch.save never does", where=path, fix=fix)


def check_state_dict(content: object) -> None:
    """Go on only with tensors by name, each of which is there in full.

    Raises:
        CheckpointError: for anything else, such as a small storage that poses as a huge tensor.
    """
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise CheckpointError("the file holds something else than a state dict")
    held: dict[int, int] = {}  # bytes of each storage
    for name, value in content.items():
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise CheckpointError(f"{name[:80]} is no plain tensor")
        held[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
    claimed = sum(value.numel() * value.element_size() for value in content.values())
    if claimed > 2 * sum(held.values()):
        raise CheckpointError(f"its tensors claim {claimed:,} bytes, but it holds {sum(held.values()):,}")


def count_named(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many of `pattern`'s names a state dict has, numbered from 0."""
    count = 0
    while pattern.format(count) in state:
        count += 1
    return count
