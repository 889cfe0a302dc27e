"""One run of a sweep, carried out here, exactly as `iris run` does: what every engine starts, in a process of its own.

It ends with exit code 0 where the run is complete, 1 where it failed and would again, 130 where it was stopped with its
work saved. It stops by itself when the sweep is to stop, and when the process that started it has died: somebody else
may then go on with the run, and waits for the lock meanwhile.
"""

import contextlib
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from iris_cli import console, invocation
from iris_cli.errors import Interrupted, IrisError, reason_of
from iris_cli.pipeline import execute
from iris_cli.report import Report
from iris_cli.sweep.manifest import Entry, Sweep, read_sweep
from iris_cli.sweep.process import is_to_stop
from iris_cli.sweep.states import (
    DONE,
    FAILED,
    RUNNING,
    STOPPED,
    State,
    held,
    is_done,
    read_state,
    write_state,
)

WATCH_SECONDS = 0.5


def work(directory: Path, name: str, *, parent: int | None = None) -> Report:
    """Carry out a run of a sweep, from the start or from where it stands; nothing if it is complete.

    Args:
        directory: of the sweep.
        name: of the run.
        parent: the process whose end ends this one; None: nobody's does.

    Raises:
        IrisError: if the run fails, which its state then says, or if somebody else works on it for minutes.
        Interrupted: if it was stopped, with the work saved.
    """
    sweep = read_sweep(directory)
    entry = sweep.entry(name)
    if is_to_stop(sweep.directory):
        raise Interrupted(f"The sweep is to stop; iris sweep resume {sweep.name} goes on.")
    torch.set_num_threads(sweep.wanted.cpus_per_run)
    with contextlib.chdir(sweep.root), held(sweep, entry):
        if is_done(sweep, entry):
            console.say(f"{name} is complete already.")
            return Report(stage="sweep work")
        with _stopping(sweep, parent):
            return _carried_out(sweep, entry)


def _carried_out(sweep: Sweep, entry: Entry) -> Report:
    before = read_state(sweep, entry)
    state = State(
        state=RUNNING, node=platform.node(), process=os.getpid(), starts=before.starts + 1 if before else 1,
        begun=time.time(), seconds=before.seconds if before else 0.0,
    )  # fmt: skip
    write_state(sweep, entry, state)
    invocation.note(sweep.command(entry))  # what the run's history shall say, and what makes it again
    try:
        report = execute(sweep.plan(entry), device=sweep.wanted.device)
    except (Interrupted, KeyboardInterrupt):
        _write_end(sweep, entry, state, STOPPED)
        raise
    except IrisError as error:
        _write_end(sweep, entry, state, FAILED, str(error))
        raise
    except Exception as error:
        _write_end(sweep, entry, state, FAILED, f"{type(error).__name__}: {reason_of(error)}")
        raise
    _write_end(sweep, entry, state, DONE)
    return report


def _write_end(sweep: Sweep, entry: Entry, begun: State, how: str, error: str | None = None) -> None:
    """Say how a run ended, unless somebody else, who could take its lock, has begun it since."""
    if read_state(sweep, entry) == begun:
        seconds = begun.seconds + time.time() - begun.begun
        write_state(sweep, entry, replace(begun, state=how, seconds=seconds, error=error))


@contextlib.contextmanager
def _stopping(sweep: Sweep, parent: int | None) -> Iterator[None]:
    """Within it, the wish to stop and the end of the parent come as SIGTERM, which asks stages to save and end."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(WATCH_SECONDS):
            if is_to_stop(sweep.directory) or parent not in (None, os.getppid()):
                os.kill(os.getpid(), signal.SIGTERM)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
