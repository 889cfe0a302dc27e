"""A run of a sweep as a process of its own: how it is started and what its exit code means. Light, without torch:

the workers of a cluster import this alone, to wait for a run each.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import iris_cli

COMPLETE, BROKEN, PAUSED = 0, 1, 130  # exit codes; whatever else means that the process died


def spawn(
    directory: Path, name: str, *, root: Path, threads: int, environment: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    """Start `iris sweep work`, which ends soon after this process does; what it says goes to the run's log.

    Args:
        directory: of the sweep, absolute.
        name: of the run.
        root: the directory from which its paths count.
        threads: that it computes with.
        environment: variables besides those of this process.
    """
    package = str(Path(iris_cli.__file__).parent.parent)  # so that it is this very program, installed or not
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {**os.environ, **environment, **fixing(threads), "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "iris_cli", "sweep", "work", str(directory), name, "--parent", str(os.getpid())]
    with (directory / "logs" / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=variables,
            start_new_session=True, cwd=root,
        )  # fmt: skip


def carry_out(directory: str, name: str, root: str, threads: int, environment: dict[str, str]) -> int:
    """Start a run here, wait for its end, and return its exit code: the task of a cluster's worker."""
    if is_to_stop(Path(directory)):
        return PAUSED
    return spawn(Path(directory), name, root=Path(root), threads=threads, environment=environment).wait()


def fixing(threads: int) -> dict[str, str]:
    """Variables that fix how many threads a run computes with: libraries read them when they are imported."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


def is_to_stop(directory: Path) -> bool:
    """Whether the runs of a sweep are to save and end."""
    return (directory / "stop").exists()
