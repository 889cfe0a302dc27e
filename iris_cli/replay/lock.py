"""The lock that makes a process the one writer of a dataset or a run. Readers need none."""

import fcntl
import os
from pathlib import Path

from iris_cli.errors import IrisError
from iris_cli.object_store import Location


def take_lock(file: Path, *, what: str, where: Location, error: type[IrisError]) -> int:
    """Become the one writer of something, until the descriptor that is returned is closed or the process ends.

    Args:
        file: that is locked, and names the process; made where it is not there.
        what: is locked, for the errors: dataset or run.
        where: it is.
        error: of which kind they are.

    Raises:
        IrisError: of that kind, if another process, or this one elsewhere, writes to it.
    """
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    except FileNotFoundError:
        raise error(f"the {what} is damaged: {file.parent.name} cannot be opened", where=where) from None
    except OSError as reason:
        raise error(f"the {what} cannot be written: {reason}", where=where) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace") or "unknown"
        os.close(descriptor)
        raise error(
            f"process {holder} is writing to the {what}", where=where, fix="Wait until it is done, or stop it."
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def release_lock(descriptor: int) -> None:
    """Give a lock back; its file then names nobody. In a child process, close the descriptor alone."""
    if os.pread(descriptor, 20, 0) == str(os.getpid()).encode():
        os.ftruncate(descriptor, 0)
    os.close(descriptor)


def holder(file: Path) -> int | None:
    """The process that a lock's file names, if it is there; None: nobody. Looking takes no lock, so it disturbs none.

    A process that was killed leaves its name, and may come to share it with another one.
    """
    try:
        process = int(file.read_text())
        if process < 1:  # would be a group of processes
            return None
        os.kill(process, 0)  # sends nothing
    except PermissionError:  # somebody else's
        return process
    except (OSError, ValueError, OverflowError):
        return None
    return process
