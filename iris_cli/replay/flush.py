"""Making sure that what was written is on the disk, so that a power failure does not take it back."""

import os
from pathlib import Path


def flush(path: Path) -> None:
    """Wait until a file's content, or a directory's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
