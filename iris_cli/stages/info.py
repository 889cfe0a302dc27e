"""`iris info`: what is in a dataset or a run, without loading the agent."""

import json
from pathlib import Path
from typing import Any

from iris_cli.card import neither, read_card
from iris_cli.errors import DAMAGE, DatasetError, RunError
from iris_cli.latest import latest_checkpoint, read_state
from iris_cli.learn.achievements import summarise
from iris_cli.object_store import Location, located
from iris_cli.replay.dataset import Dataset
from iris_cli.working_copy import at_hand


def info(path: Location) -> dict[str, Any]:
    """Facts about a dataset or a run, as JSON-safe values.

    Raises:
        IrisError: if the path is neither.
    """
    if (path / "run.yaml").exists():
        return _run(at_hand(path))
    if not (path / "zarr.json").exists():
        raise neither(path)
    with Dataset.open(path) as dataset:
        return {"kind": "dataset", "path": str(path), **dataset.summary(), **_achievements(dataset)}


def _run(path: Path) -> dict[str, Any]:
    card = read_card(path)
    facts: dict[str, Any] = {
        "kind": "run",
        "path": str(path),
        "agent": card["agent"],
        "preset": card["config"].get("preset"),
        "environment": card["environment"].get("id"),
        "environment_settings": card["environment"],
        "dataset": card["dataset"],
        "seed": card["seed"],
        "created": card["created"],
        "versions": card["versions"],
        **{name: card[name] for name in ("imported", "pulled") if name in card},
    }
    checkpoint = latest_checkpoint(path / "checkpoints")
    if checkpoint is not None:
        try:
            state = read_state(checkpoint)
            facts |= {
                "checkpoint": checkpoint.name,
                "updates": state["updates"],
                "tokenizer_loss": state["tokenizer_loss"],
                "collected_steps": state["collected"]["steps"] or state.get("steps_seen", 0),
                "unfinished_stage": _words(state["progress"]) if state["progress"] else None,
                "pipeline_position": state["cursor"]["position"] if state["cursor"] else None,
            }
        except (KeyError, TypeError) as error:
            raise RunError(f"the checkpoint cannot be read ({error})", where=checkpoint) from None
    facts |= _collected_achievements(located(card["dataset"]))
    reports = sorted((path / "reports").glob("evaluate-*.json"), key=lambda file: file.stat().st_mtime)
    if reports:
        try:
            newest = json.loads(reports[-1].read_text(encoding="utf-8"))
            facts["last_evaluation"] = {
                "report": str(reports[-1]), "mean": newest["mean"], "episodes": len(newest["scores"]),
                "human_normalised": newest["human_normalised"],
                **({"achievements": newest["achievements"]} if "achievements" in newest else {}),
            }  # fmt: skip
        except DAMAGE as error:
            raise RunError(f"the report cannot be read ({error})", where=reports[-1], fix="Remove it.") from None
    return facts


def _achievements(dataset: Dataset) -> dict[str, Any]:
    """Of all finished episodes, where the game has achievements and an episode is over; else nothing."""
    found = summarise(dataset.achievements, dataset.unlocked())
    return {} if found is None else {"achievements": found.to_mapping()}


def _collected_achievements(path: Location) -> dict[str, Any]:
    """Of the episodes that a run learned from."""
    try:
        with Dataset.open(path) as dataset:
            return {f"collected_{name}": value for name, value in _achievements(dataset).items()}
    except DatasetError:  # it is not there, or damaged, which `iris info` of itself says
        return {}


def _words(progress: dict[str, Any]) -> str:
    return f"{progress['stage']}, {progress['done']:,} of {progress['total']:,} updates"
