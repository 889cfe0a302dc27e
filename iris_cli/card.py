"""run.yaml, the card of a run: who it is, without loading its agent."""

from pathlib import Path
from typing import Any

from iris_cli.agents import config_for
from iris_cli.config import load_yaml
from iris_cli.errors import IrisError, RunError
from iris_cli.object_store import Location

FORMAT = 1
_CARD = {  # what run.yaml must hold
    "id": str,
    "agent": str,
    "environment": dict,
    "num_actions": int,
    "dataset": str,
    "seed": int,
    "config": dict,
    "versions": dict,
    "created": str,
}


def read_card(directory: Path) -> dict[str, Any]:
    """run.yaml as plain values.

    Raises:
        RunError: if this is no run, or one of another format or agent.
    """
    path = directory / "run.yaml"
    if not path.exists():
        if (directory / "zarr.json").exists():
            raise RunError("this is a dataset, not a run", where=directory, fix="Name a run: runs/pong")
        what = "there is no run here" if directory.exists() else "there is no such run"
        raise RunError(what, where=directory, fix="Training makes one: iris train-tokenizer data/NAME.zarr")
    document = load_yaml(path)
    card = document.data
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        if not isinstance(card, dict) or "format" not in card:
            raise RunError("run.yaml is damaged: it is no run's card", where=path, fix="Restore it from a copy.")
        raise RunError(f"run.yaml has format {card['format']}, but this program reads format {FORMAT}", where=path)
    for name, kind in _CARD.items():
        if not isinstance(card.get(name), kind):
            raise RunError(f"run.yaml lacks {name}, or has it in another form", where=document.where(name))
    config_for(card["agent"])
    return card


def holds_sweeps(directory: Location) -> bool:
    """Whether this is where sweeps lie, beside the runs: runs/* names it too."""
    return isinstance(directory, Path) and any(directory.glob("*/sweep.yaml"))


def neither(path: Location) -> IrisError:
    """The error of a path that is neither a dataset nor a run."""
    if (path / "sweep.yaml").exists():
        return IrisError("this is a sweep", where=path, fix=f"See how it stands: iris sweep status {path}")
    what = "this is neither a dataset nor a run" if path.exists() else "there is nothing here"
    return IrisError(what, where=path, fix="Name data/NAME.zarr or runs/NAME.")


def newest_run(root: Path = Path("runs")) -> Path:
    """The run under `root` that was saved last.

    Raises:
        RunError: if there is none.
    """
    saved = sorted(root.glob("[!.]*/checkpoints/latest"), key=lambda path: path.stat().st_mtime)
    if not saved:
        raise RunError("there is no run yet", where=root, fix="Training makes one: iris train-tokenizer data/NAME.zarr")
    return saved[-1].parent.parent
