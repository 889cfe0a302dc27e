"""Which checkpoint of a run is in force, and its state. Apart from the tensors, so that `iris info` needs no torch."""

import json
from pathlib import Path
from typing import Any

from iris_cli.digests import MARK, is_whole
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
    if path.parent != directory or not (path / MARK).exists():
        raise RunError("the latest checkpoint is not whole", where=path, fix=older(directory / path.name))
    return path


def newest_whole(directory: Path, *, besides: Path) -> Path | None:
    """The newest checkpoint but for one whose files are all as they were written; None: there is none."""
    others = (path for path in directory.glob("[0-9]*") if path.name.isdigit() and path != besides)
    return next(filter(is_whole, sorted(others, reverse=True)), None)


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
    found = newest_whole(path.parent, besides=path)
    if found is None:
        return "No older one beside it is whole."
    return f"The older one {found.name} is whole; to go back to it: iris repair {path.parent.parent}"


def first_line(error: Exception) -> str:
    """Of what went wrong."""
    return (str(error) or type(error).__name__).splitlines()[0]
