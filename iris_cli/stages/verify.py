"""`iris verify`: is a dataset or a run as it was written? All of it is read; nothing is changed."""

import json
from pathlib import Path
from typing import Any

import torch

from iris_cli.card import neither, read_card
from iris_cli.checkpoints import numbered, read_checkpoint
from iris_cli.digests import check_files, has_digests
from iris_cli.errors import DatasetError, RunError, reason_of
from iris_cli.latest import latest_checkpoint, read_state
from iris_cli.metrics import read_metrics
from iris_cli.object_store import Location, located
from iris_cli.replay.attributes import read_attributes
from iris_cli.replay.dataset import Dataset
from iris_cli.replay.finding import Finding
from iris_cli.report import Report, Section
from iris_cli.working_copy import at_hand


def verify(path: Location) -> list[Finding]:
    """What was looked at, and what is wrong with it.

    Raises:
        IrisError: if the path is neither a dataset nor a run.
    """
    if (path / "run.yaml").exists() or (path / "checkpoints").exists():
        return _run(at_hand(path, everything=True))
    if not (path / "zarr.json").exists():
        raise neither(path)
    try:
        return Dataset.examine(path)
    except DatasetError as error:
        return [Finding("zarr.json", error.what, is_wrong=True)]


def report_of(path: Location, findings: list[Finding]) -> Report:
    """The findings as a table for people."""
    rows = tuple(("wrong" if finding.is_wrong else "ok", finding.part, finding.found) for finding in findings)
    wrong = sum(finding.is_wrong for finding in findings)
    title = f"{path}: {f'{wrong} of {len(rows)} parts are wrong' if wrong else 'whole'}"
    notes = (f"iris repair {path} --dry-run says what can be mended; the rest only a copy has",) if wrong else ()
    return Report(stage="verify", sections=(Section(title, ("", "part", "found"), rows),), notes=notes)


def _run(path: Path) -> list[Finding]:
    found = []
    try:
        card = read_card(path)
        found.append(Finding("run.yaml", f"{card['agent']}, on {card['environment'].get('id')}"))
    except RunError as error:
        card = None
        found.append(Finding("run.yaml", error.what, is_wrong=True))
    try:
        latest = latest_checkpoint(path / "checkpoints")
        found.append(Finding("latest", "nothing", is_wrong=True) if latest is None else Finding("latest", latest.name))
    except RunError as error:
        latest = None
        found.append(Finding("latest", error.what, is_wrong=True))
    folder = path / "checkpoints"
    checkpoints = numbered(folder) if folder.exists() else []
    found += [_checkpoint(checkpoint) for checkpoint in checkpoints]
    found += [Finding(f"checkpoints/{aside.name}", "put aside") for aside in sorted(folder.glob("*.damaged"))]
    metrics = read_metrics(path / "metrics.jsonl")
    words = f"{len(metrics.lines):,} lines" + (f", {metrics.skipped:,} unreadable" if metrics.skipped else "")
    found.append(Finding("metrics.jsonl", words, is_wrong=metrics.skipped > 0))
    found += [_report(file) for file in sorted((path / "reports").glob("*.json"))]
    if card is not None and latest is not None and not any(finding.is_wrong for finding in found):
        found += _steps(located(card["dataset"]), read_state(latest))
    return found


def _checkpoint(path: Path) -> Finding:
    """One checkpoint: against its checksums, or where it has none, by reading it."""
    name = f"checkpoints/{path.name}"
    try:
        check_files(path)
        if has_digests(path):
            return Finding(name, "as it was written")
        read_checkpoint(path, torch.device("cpu"), optimizers=True)
    except (OSError, ValueError, RunError) as error:
        return Finding(name, error.what if isinstance(error, RunError) else str(error), is_wrong=True)
    return Finding(name, "readable; of an earlier version, without checksums")


def _report(path: Path) -> Finding:
    name = f"reports/{path.name}"
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return Finding(name, f"cannot be read ({reason_of(error)})", is_wrong=True)
    return Finding(name, "readable")


def _steps(dataset: Location, state: dict[str, Any]) -> list[Finding]:
    """Whether what a run collected is there; the dataset itself is verified by its own name."""
    collected = state["collected"]["steps"]
    if not collected or not dataset.exists():  # a run may be kept without the steps it learned from
        return []
    try:
        steps = read_attributes(dataset)["committed_steps"]
    except DatasetError as error:
        return [Finding(str(dataset), error.what, is_wrong=True)]
    return [Finding(str(dataset), f"{steps:,} steps, of which the run knows {collected:,}", is_wrong=steps < collected)]
