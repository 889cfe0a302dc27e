"""The lock that makes a process the one writer of a dataset or a run. Readers need none.

The lock is the kernel's, on an open file: it ends with its process, however that ends, and a file that is left behind
holds nobody up. What stands in the file is for people: process, host, command and since when, a line each. It also
tells a process whose lock another one could take, on a file system that lost it or that locks for each node alone,
that it is the one no longer: see `Lock.check`.
"""

import fcntl
import os
import shlex
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from iris_cli.errors import IrisError, reason_of
from iris_cli.object_store import Location

_LONGEST = 200  # characters of the command that are kept


@dataclass(frozen=True)
class Lock:
    """A lock that was taken.

    Attributes:
        descriptor: of the locked file; the lock ends with it.
        name: what was written into the file; empty on a full disk.
        what, error: as for `take_lock`.
    """

    descriptor: int
    name: bytes
    what: str
    error: type[IrisError]

    def check(self, file: Path, *, where: Location) -> None:
        """Refuse to write where another process has taken the lock since; to be called before every commit.

        Args:
            file: the locked one, by its present name; it is opened anew, which shared file systems answer truly.
            where: what it locks is.

        Raises:
            IrisError: of the lock's kind.
        """
        try:
            there = file.read_bytes()
        except OSError:  # taken away as a whole, which whoever writes next will find
            return
        if self.name and there != self.name:  # empty: that one has ended meanwhile
            process, details = _in_words(there.decode("utf-8", "replace"))
            whom = f"process {process}" if there else "another process"
            raise self.error(
                f"{whom} has taken the {self.what} over{details}, so this one writes nothing more",
                where=where, fix="If both were alive, its file system has no locks that all nodes see (flock).",
            )  # fmt: skip

    def release(self) -> None:
        """Give it back; its file then names nobody. In a child process, close the descriptor alone."""
        with suppress(OSError):  # on a disk that can no longer be written it goes on naming who held it
            if _process(self.name.decode()) == os.getpid() and os.pread(self.descriptor, 4096, 0) == self.name:
                os.ftruncate(self.descriptor, 0)
        os.close(self.descriptor)


def take_lock(file: Path, *, what: str, where: Location, error: type[IrisError]) -> Lock:
    """Become the one writer of something, until the lock is given back or the process ends.

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
        raise error(f"the {what} cannot be written: {reason_of(reason)}", where=where) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        process, details = _in_words(_read(descriptor))
        os.close(descriptor)
        raise error(
            f"process {process} is writing to the {what}{details}", where=where,
            fix="Wait until it is done, or stop it.",
        ) from None  # fmt: skip
    except OSError as reason:
        os.close(descriptor)
        raise error(
            f"the {what} cannot be locked: {reason_of(reason)}", where=where,
            fix="Its file system has no locks (flock): put it on a local disk, or mount that with locks.",
        ) from None  # fmt: skip
    name = b""
    with suppress(OSError):  # on a full disk it is held without a name
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, own := _own_name(), 0)
        os.fsync(descriptor)  # other nodes are to see it
        name = own if os.pread(descriptor, 4096, 0) == own else b""
    return Lock(descriptor, name, what, error)


def holder(file: Path) -> int | None:
    """The process that a lock's file names, if it is there; None: nobody. Looking takes no lock, so it disturbs none.

    A process that was killed leaves its name, and may come to share it with another one.
    """
    try:
        process = _process(file.read_text(encoding="utf-8"))
        if process is None:
            return None
        os.kill(process, 0)  # sends nothing
    except PermissionError:  # somebody else's
        return process
    except (OSError, ValueError, OverflowError):
        return None
    return process


def _own_name() -> bytes:
    program = Path(sys.argv[0])
    named = "iris" if program.name in ("iris", "__main__.py") else program.name
    command = " ".join(shlex.join([named, *sys.argv[1:]]).split())[:_LONGEST]
    moment = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return f"{os.getpid()}\n{socket.gethostname()}\n{command}\n{moment}\n".encode(errors="replace")


def _read(descriptor: int) -> str:
    return os.pread(descriptor, 4096, 0).decode("utf-8", "replace")


def _process(content: str) -> int | None:
    """The process that a lock's file names; None where it names none, or what would be a group of processes."""
    try:
        process = int(content.partition("\n")[0])
    except ValueError:
        return None
    return process if process > 0 else None


def _in_words(content: str) -> tuple[str, str]:
    """The holder's number, and the rest: ` (iris run atari100k.yaml, on HOST, since 2026-11-21 16:00:00 +0000)`."""
    process, *more = [line[:_LONGEST] for line in content.splitlines() if line.strip()] or ["unknown"]
    if len(more) < 3:  # of an earlier version, or of a process that could not write
        return process[:20], ""
    host, command, since = more[:3]
    return process[:20], f" ({command}, on {host}, since {since})"
