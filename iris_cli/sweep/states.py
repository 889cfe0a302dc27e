"""How each run of a sweep stands, in files that any node can read: its state, its lock, and the wish to stop.

Whoever carries out a run holds its lock, and writes its state under it. The lock falls with the process, however that
ends; a state that says `running` without a lock is of a process that died. The file system must know flock (NFS from
version 4 on does; Lustre where it is mounted with `flock`).
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from iris_cli.errors import RunError
from iris_cli.files import write_atomically
from iris_cli.sweep.manifest import Entry, Sweep

RUNNING, DONE, FAILED, STOPPED = "running", "done", "failed", "stopped"
LOCK_SECONDS = 180.0  # that a worker waits for the one before it, which may be saving, or have died with its node
_POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class State:
    """Of a run that was begun.

    Attributes:
        state: running, done, failed or stopped.
        node, process: who carries it out, or did last.
        starts: how often it was begun or gone on with.
        begun: when that was last, in seconds since 1970.
        seconds: of work before that.
        error: one line, of a failed one.
    """

    state: str
    node: str
    process: int
    starts: int
    begun: float
    seconds: float = 0.0
    error: str | None = None


def read_state(sweep: Sweep, entry: Entry) -> State | None:
    """What was written last; None: it was never begun, or something else lies there."""
    try:
        return State(**json.loads(_state_file(sweep, entry).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_state(sweep: Sweep, entry: Entry, state: State) -> None:
    """Say how a run stands; its lock must be held."""
    write_atomically(_state_file(sweep, entry), json.dumps(asdict(state)) + "\n")


def is_done(sweep: Sweep, entry: Entry) -> bool:
    """Whether a run is complete, and still there."""
    state = read_state(sweep, entry)
    place = sweep.place(entry)
    is_there = not isinstance(place, Path) or (place / "run.yaml").exists()  # an object store is not asked each time
    return state is not None and state.state == DONE and is_there


@contextmanager
def held(sweep: Sweep, entry: Entry, *, patience: float = LOCK_SECONDS) -> Iterator[None]:
    """Be the only one, on any node, to work on a run of a sweep.

    Raises:
        RunError: if somebody else still does after `patience` seconds.
    """
    descriptor = os.open(_lock_file(sweep, entry), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + patience
        while not _taken(descriptor, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                state = read_state(sweep, entry)
                whom = f"process {state.process} on {state.node}" if state else "another process"
                raise RunError(
                    f"{whom} works on {entry.name}", where=sweep.name, fix="Wait until it is done, or stop it."
                )
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def is_held(sweep: Sweep, entry: Entry) -> bool:
    """Whether somebody works on a run. For an instant this shares the lock, which those who want it wait out."""
    try:
        descriptor = os.open(_lock_file(sweep, entry), os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _taken(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def ask_to_stop(sweep: Sweep) -> None:
    """Every run under way saves and ends, wherever it is, and no other begins."""
    write_atomically(sweep.directory / "stop", time.strftime("%Y-%m-%dT%H:%M:%S%z") + "\n")


def may_go_on(sweep: Sweep) -> None:
    """Take the wish to stop back."""
    (sweep.directory / "stop").unlink(missing_ok=True)


def _taken(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _state_file(sweep: Sweep, entry: Entry) -> Path:
    return sweep.directory / "states" / f"{entry.name}.json"


def _lock_file(sweep: Sweep, entry: Entry) -> Path:
    return sweep.directory / "locks" / f"{entry.name}.lock"
