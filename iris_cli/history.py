"""history.jsonl of a run: who worked on it, one line for each command that changed it.

With run.yaml and, of a pipeline, plan.json it says how to make the run again. It is no input of any stage.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from iris_cli.files import write_atomically
from iris_cli.invocation import typed
from iris_cli.machine import machine
from iris_cli.metrics import read_metrics
from iris_cli.version import VERSION


@dataclass(frozen=True)
class Start:
    """One command that changed a run.

    Attributes:
        time: of its start, in seconds since 1970.
        command: what was typed; None from a Python program.
        machine: what it ran on, by name.
        versions: of the program and of torch.
    """

    time: float
    command: str | None
    machine: dict[str, Any]
    versions: dict[str, Any]


class Note:
    """Listens to a run, and appends a line for the command under way once that has saved something."""

    def __init__(self, directory: Path, device: torch.device) -> None:
        self._path, self._is_noted = directory / "history.jsonl", False
        self._line = {
            "time": round(time.time(), 3),
            "command": typed(),
            "machine": machine(device),
            "versions": {"iris-wm": VERSION, "torch": str(torch.__version__)},
        }

    def saved(self, metrics_bytes: int) -> None:
        """There is something that the command did."""
        if not self._is_noted:
            self._is_noted = True
            with self._path.open("ab+") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                torn = file.read(1) not in (b"", b"\n")  # a line that a kill or a full disk cut short
                file.write(b"\n" * torn + json.dumps(self._line).encode() + b"\n")

    def close(self) -> None:
        """Nothing to end."""


def starts(directory: Path) -> list[Start]:
    """All starts, in order; lines that are none are passed over, and none are there in runs of earlier versions."""
    found = []
    for line in read_metrics(directory / "history.jsonl").lines:
        moment, command = line.get("time"), line.get("command")
        if isinstance(moment, int | float) and isinstance(command, str | None):
            facts = (value if isinstance(value, dict) else {} for value in (line.get("machine"), line.get("versions")))
            found.append(Start(float(moment), command, *facts))
    return found


def write_plan(directory: Path, plan: dict[str, Any]) -> None:
    """Keep what a pipeline is going to do, as plain values, for those who follow it: plan.json."""
    write_atomically(directory / "plan.json", json.dumps(plan) + "\n")


def read_plan(directory: Path) -> dict[str, Any] | None:
    """What `write_plan` kept; None where there is none, or it cannot be read."""
    try:
        plan = json.loads((directory / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return plan if isinstance(plan, dict) and isinstance(plan.get("stages"), list) else None
