"""history.jsonl of a run: who worked on it, one line for each start of a command that trains it.

With run.yaml and, of a pipeline, plan.json it says how to make the run again. It is no input of any stage.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from iris_cli.checkpoints import write_atomically
from iris_cli.invocation import typed
from iris_cli.machine import machine
from iris_cli.metrics import read_metrics
from iris_cli.version import VERSION


@dataclass(frozen=True)
class Start:
    """One start of a command.

    Attributes:
        time: in seconds since 1970.
        command: what was typed; None from a Python program.
        machine: what it ran on, by name.
        versions: of the program and of torch.
    """

    time: float
    command: str | None
    machine: dict[str, Any]
    versions: dict[str, Any]


def note_start(directory: Path, device: torch.device) -> None:
    """Append a line for the command under way."""
    line = {
        "time": round(time.time(), 3),
        "command": typed(),
        "machine": machine(device),
        "versions": {"iris-wm": VERSION, "torch": str(torch.__version__)},
    }
    with (directory / "history.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


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
