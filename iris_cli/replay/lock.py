"""The lock that makes a process the one writer of a dataset. Readers need none."""

import fcntl
import os
from pathlib import Path

from iris_cli.errors import DatasetError

FILE = "actions/.lock"  # inside an array, where listing a group's members does not stumble over it


def take_lock(path: Path) -> int:
    """Become the one writer of a dataset, until the descriptor that is returned is closed or the process ends.

    Raises:
        DatasetError: if another process, or this one elsewhere, writes to it.
    """
    try:
        descriptor = os.open(path / FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except FileNotFoundError:
        raise DatasetError("the dataset is damaged: actions cannot be opened", where=path) from None
    except OSError as error:
        raise DatasetError(f"the dataset cannot be written: {error}", where=path) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace") or "unknown"
        os.close(descriptor)
        raise DatasetError(
            f"process {holder} is writing to the dataset", where=path, fix="Wait until it is done, or stop it."
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor
