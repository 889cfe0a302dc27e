"""What the files of a run say of it, read without its agent, while it is being trained or after a kill.

Files of a run in progress may be missing or half-written: what cannot be read is left out with a note, and only a
run.yaml that is none is an error.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iris_cli import latest
from iris_cli.card import read_card
from iris_cli.envs.spec import EnvSpec
from iris_cli.errors import DAMAGE, IrisError, RunError
from iris_cli.evaluations import Evaluation, evaluations
from iris_cli.history import Start, read_plan, starts
from iris_cli.metrics import Line, is_number, read_metrics
from iris_cli.replay.lock import holder
from iris_cli.stages.curve import Point, points_in, points_of

MEDIA = (".mp4", ".gif", ".png")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A run as its files have it.

    Attributes:
        path: its directory.
        card: run.yaml.
        game: what it plays, in words.
        process: that trains it now; None: nobody.
        state: of the latest checkpoint, without weights; None where there is none that can be read.
        lines: of metrics.jsonl.
        points: its evaluations on the way, with steps and minutes.
        evaluations: its evaluation reports, in order.
        world_model: the newest measurement of its world model, from a diagnosis or an evaluation; with `report`, its
            file, and `hints`. None: never measured.
        starts: of commands that trained it.
        plan: of the pipeline that made it, if one did and the program was new enough to keep it.
        media: pictures and films, the oldest first.
        notes: sentences about what could not be read.
    """

    path: Path
    card: dict[str, Any]
    game: str
    process: int | None
    state: dict[str, Any] | None
    lines: list[Line]
    points: list[Point]
    evaluations: list[Evaluation]
    world_model: dict[str, Any] | None
    starts: list[Start]
    plan: dict[str, Any] | None
    media: list[Path]
    notes: list[str]

    @property
    def stages(self) -> list[Line]:
        """The lines that close a stage of a pipeline."""
        return stage_lines(self.lines)


def facts_of(path: Path) -> Facts:
    """Read all there is.

    Raises:
        RunError: if this is no run, or run.yaml cannot be read.
    """
    card, notes = read_card(path), list[str]()
    try:
        game = EnvSpec.from_mapping(card["environment"]).name
    except IrisError as error:
        raise RunError(f"run.yaml lacks or spoils something ({error.what})", where=path / "run.yaml") from None
    metrics = read_metrics(path / "metrics.jsonl")
    if metrics.skipped:
        notes.append(f"{metrics.skipped} lines of metrics.jsonl cannot be read and are left out")
    return Facts(
        path=path, card=card, game=game, process=holder(path / ".lock"), state=read_state(path), lines=metrics.lines,
        points=_points(path, metrics.lines, notes), evaluations=_evaluations(path, notes),
        world_model=_world_model(path, notes), starts=starts(path), plan=read_plan(path), media=_media(path),
        notes=notes,
    )  # fmt: skip


def stage_lines(lines: list[Line]) -> list[Line]:
    """The lines that close a stage of a pipeline."""
    return [
        line
        for line in lines
        if line.get("event") == "stage" and isinstance(line.get("stage"), str) and is_number(line.get("seconds"))
    ]


def read_state(path: Path) -> dict[str, Any] | None:
    """state.json of a run's latest checkpoint; None where there is none, or it is just being replaced."""
    try:
        checkpoint = latest.latest_checkpoint(path / "checkpoints")
        if checkpoint is None:
            return None
        return latest.read_state(checkpoint)
    except (RunError, OSError):
        return None


def _points(path: Path, lines: list[Line], notes: list[str]) -> list[Point]:
    try:
        return points_in(lines, path) or points_of(path)
    except IrisError as error:
        notes.append(f"the learning curve is left out: {error}")
        return []


def _evaluations(path: Path, notes: list[str]) -> list[Evaluation]:
    try:
        return evaluations(path)
    except IrisError as error:
        notes.append(f"the scores are left out: {error}")
        return []


def _world_model(path: Path, notes: list[str]) -> dict[str, Any] | None:
    files = [*(path / "reports").glob("diagnose-*.json"), *(path / "reports").glob("evaluate-*.json")]
    found: list[tuple[int, float, dict[str, Any]]] = []
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if content.get("world_model"):
                hints = content.get("hints", content["world_model"].get("hints", []))
                updates = sum(content["updates"].values())
                found.append((updates, file.stat().st_mtime, {**content, "report": str(file), "hints": hints}))
        except DAMAGE as error:
            notes.append(f"a measurement of the world model is left out: {file.name} cannot be read ({error})")
    return max(found, key=lambda one: one[:2])[2] if found else None


def _media(path: Path) -> list[Path]:
    files = [file for file in (path / "media").glob("[!.]*") if file.suffix.lower() in MEDIA and not file.is_symlink()]
    return sorted(files, key=lambda file: file.stat().st_mtime)
