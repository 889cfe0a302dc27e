"""Which checkpoint of a run is in force, and its state. Apart from the tensors, so that `iris info` needs no torch."""

import json
from pathlib import Path
from typing import Any

from iris_cli.errors import RunError


def latest_checkpoint(directory: Path) -> Path | None:
    """The directory that `latest` names, or None where nothing was ever saved.

    Raises:
        RunError: if it names one that is not there or not whole.
    """
    pointer = directory / "latest"
    if not pointer.exists():
        return None
    path = directory / pointer.read_text(encoding="utf-8", errors="replace").strip()
    if path.parent != directory or not (path / "done").exists():
        raise RunError(
            "the latest checkpoint is not whole", where=path, fix=f"Write the name of an older one into {pointer}."
        )
    return path


def read_state(path: Path) -> dict[str, Any]:
    """The state of a checkpoint alone, as in `Checkpoint`.

    Raises:
        RunError: if it is missing or damaged.
    """
    try:
        return json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"the checkpoint cannot be read ({first_line(error)})", where=path, fix=older(path)) from None


def older(path: Path) -> str:
    """What to do where this checkpoint is damaged."""
    return f"An older one may lie beside it; write its name into {path.parent / 'latest'}."


def first_line(error: Exception) -> str:
    """Of what went wrong."""
    return (str(error) or type(error).__name__).splitlines()[0]
