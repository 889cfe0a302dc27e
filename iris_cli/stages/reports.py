"""Where reports of a run go, and how they are written: whole or not at all, and never over another one's."""

import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from iris_cli.errors import RunError
from iris_cli.files import write_atomically
from iris_cli.run import Run
from iris_cli.version import VERSION


def write_report(run: Run, stage: str, name: str | None, content: dict[str, Any]) -> Path:
    """Write `reports/STAGE-NAME.json`.

    Args:
        run: whose report it is.
        stage: its name.
        name: of the report, which replaces one of the same name; None takes the checkpoint's number, and a further
            one where that report is there already.
        content: plain values.

    Raises:
        StoreError: if the run lives in an object store, and that does not take it.
    """
    path = _path(run, stage, name)
    write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    run.publish()
    return path


def about(run: Run, *, seconds: float) -> dict[str, Any]:
    """Which agent a report is about, and what it was made with; the last lines of every report."""
    return {
        "agent": run.agent_name,
        "environment": run.environment.name,
        "updates": run.updates,
        "collected_steps": run.collected["steps"] or run.steps_seen or None,  # by the run, or by others
        "tokenizer_loss": run.tokenizer_loss,
        "checkpoint": f"{run.checkpoint_number:06d}",
        "fingerprint": run.fingerprint(),
        "device": str(run.device),
        "seconds": round(seconds, 1),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {"iris-wm": VERSION, "torch": str(torch.__version__)},
    }


def check_writable(run: Run) -> None:
    """Refuse a run whose reports cannot be written.

    Raises:
        RunError: naming the folder.
    """
    reports = run.directory / "reports"
    if not os.access(reports if reports.exists() else run.directory, os.W_OK):
        raise RunError("no report could be written: the folder may not be changed", where=reports)


def _path(run: Run, stage: str, name: str | None) -> Path:
    reports = run.directory / "reports"
    reports.mkdir(exist_ok=True)
    if name is not None:
        return reports / f"{stage}-{name}.json"
    number = f"{run.checkpoint_number:06d}"
    names = itertools.chain([number], (f"{number}-{again}" for again in itertools.count(2)))
    return next(path for path in (reports / f"{stage}-{name}.json" for name in names) if not path.exists())
