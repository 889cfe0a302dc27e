"""Where the time of a command went, operator by operator: a trace by torch's profiler, for a browser to draw.

A trace holds every operator of every thread of this process, some 15 MB of them for each second of small networks, and
lies in memory until the end: it is for a few updates or steps, not for a whole run.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from iris_cli.errors import ConfigError
from iris_cli.files import replacing

SUFFIXES = (".json", ".json.gz")


@contextmanager
def profiled(path: Path) -> Iterator[None]:
    """Within it, what torch does is recorded; then the trace is written, also where an error or Ctrl-C ended the work.

    Args:
        path: .json or .json.gz, in Chrome's trace format: for ui.perfetto.dev or chrome://tracing.

    Raises:
        ConfigError: before anything is done, if no such file can be written.
    """
    if not path.name.endswith(SUFFIXES) or path.name in SUFFIXES:
        raise ConfigError(f"a trace ends in {' or '.join(SUFFIXES)}", where=f"--profile {path}")
    reason = "it is a directory" if path.is_dir() else None
    if not path.parent.is_dir():
        reason = os.strerror(errno.ENOENT)
    elif not os.access(path.parent, os.W_OK):
        reason = os.strerror(errno.EACCES)
    if reason is not None:
        raise ConfigError(
            f"the trace cannot be written ({reason})", where=path, fix="Name a file in a folder that is there."
        )
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    recorder = profile(activities=activities)
    try:
        with recorder:
            yield
    finally:
        with replacing(path) as draft:
            recorder.export_chrome_trace(str(draft))
            if not draft.is_file():  # the profiler tells its log what went wrong, and leaves this
                draft.with_name(f"{draft.name}.tmp").unlink(missing_ok=True)
                raise OSError(errno.EIO, "The trace could not be written", str(path))
