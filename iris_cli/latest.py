"""Which checkpoint of a run is in force, and its state. Apart from the tensors, so that `iris info` needs no torch."""

import json
import re
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
    name = pointer.read_text(encoding="utf-8", errors="replace").strip()
    path = directory / re.sub(r"[^\w.-]", "_", name[:80])
    if not re.fullmatch(r"[0-9]{1,20}", name) or not (path / MARK).exists():
        raise RunError("the latest checkpoint is not whole", where=path, fix=older(path))
    return path


def newest_whole(directory: Path, *, besides: Path) -> Path | None:
    """The newest checkpoint but for one whose files are all as they were written; None: there is none."""
    others = (path for path in directory.glob("[0-9]*") if path.name.isdigit() and path != besides)
    return next(filter(is_whole, sorted(others, reverse=True)), None)


def read_state(path: Path) -> dict[str, Any]:
    """The state of a checkpoint alone, as in `Checkpoint`.

    Raises:
        RunError: if it is missing, damaged, or not what a run saves.
    """
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        check_state(state)
        return state
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"the checkpoint cannot be read ({first_line(error)})", where=path, fix=older(path)) from None


_STATE: dict[str, tuple[type, ...]] = {
    "number": (int,),
    "updates": (dict,),
    "tokenizer_loss": (str, type(None)),
    "invocations": (dict,),
    "progress": (dict, type(None)),
    "cursor": (dict, type(None)),
    "collected": (dict,),
    "metrics_bytes": (int,),
}


def check_state(state: Any) -> None:
    """Go on only with what `Run.save` writes, so that nobody who reads it has to ask.

    Raises:
        ValueError: naming what is not.
    """
    _is("state.json", state, dict)
    for name, kinds in _STATE.items():
        if name not in state:
            raise ValueError(f"state.json lacks {name}")
        _is(name, state[name], *kinds)
    if "collector" not in state["collected"]:
        raise ValueError("collected lacks the collector")
    counts = [state["number"], state["metrics_bytes"], state["collected"].get("steps")]
    counts += [*state["updates"].values(), *state["invocations"].values()]
    if state["cursor"] is not None:
        counts.append(state["cursor"].get("position"))
        _is("cursor", state["cursor"].get("written", state["cursor"].get("done")), str)
    if state["progress"] is not None:
        counts += [state["progress"].get("done"), state["progress"].get("total")]
        _is("progress.stage", state["progress"].get("stage"), str)
        for name in ("draws", "dreams", "torch"):
            _is(f"progress.{name}", state["progress"].get(name, ""), str)
    for name in ("visits", "passes"):  # not in the first runs
        _is(name, state.get(name, {}), dict)
        for drawn in state.get(name, {}).values():
            _is(name, drawn, list)
            counts += drawn
    if not all(type(count) is int and 0 <= count < 1 << 62 for count in counts):
        raise ValueError("state.json counts something in what is no number")


def _is(name: str, value: object, *kinds: type) -> None:
    if type(value) not in kinds:
        raise ValueError(f"{name} is of another kind than it should be")


def older(path: Path) -> str:
    """What to do where this checkpoint is damaged."""
    found = newest_whole(path.parent, besides=path)
    if found is None:
        return "No older one beside it is whole: restore the run from a copy, or make it anew."
    return f"The older one {found.name} is whole; to go back to it: iris repair {path.parent.parent}"


def first_line(error: Exception) -> str:
    """Of what went wrong."""
    return (str(error) or type(error).__name__).splitlines()[0]
