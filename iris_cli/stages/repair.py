"""`iris repair`: bring a dataset or a run back to its last whole state. Says what it does, and guesses nothing."""

import json
import shutil
from pathlib import Path

from iris_cli.card import neither, read_card
from iris_cli.digests import is_whole
from iris_cli.errors import DAMAGE, RunError
from iris_cli.files import write_atomically
from iris_cli.latest import latest_checkpoint, newest_whole, read_state
from iris_cli.object_store import Location, StoreURL
from iris_cli.replay.dataset import Dataset
from iris_cli.replay.lock import take_lock


def repair(path: Location, *, dry_run: bool = False) -> list[str]:
    """Mend what can be mended without a guess; a sentence for each thing that was done.

    A dataset is cut to what is committed, and loses tokens that are damaged, which can be made again. A run goes back
    to its newest whole checkpoint; the damaged one is put aside.

    Args:
        path: of the dataset or the run.
        dry_run: whether to say only what would be done.

    Raises:
        IrisError: if the path is neither, someone writes to it, or it cannot be repaired; it is then as it was.
    """
    if (path / "run.yaml").exists():
        if isinstance(path, StoreURL):
            raise RunError(
                "a run in an object store is not repaired there", where=path,
                fix="Copy it to a path and back, or write an older number into its checkpoints/latest.",
            )  # fmt: skip
        return _run(path, dry_run=dry_run)
    if not (path / "zarr.json").exists():
        raise neither(path)
    return Dataset.repair(path, dry_run=dry_run)


def _run(path: Path, *, dry_run: bool) -> list[str]:
    read_card(path)
    if dry_run:
        return _go_back(path, dry_run=True)
    lock = take_lock(path / ".lock", what="run", where=path, error=RunError)
    try:
        return _go_back(path, dry_run=False)
    finally:
        lock.release()


def _go_back(path: Path, *, dry_run: bool) -> list[str]:
    folder, done = path / "checkpoints", []
    try:
        latest = latest_checkpoint(folder)
        damaged = None if latest is not None and is_whole(latest) else latest
    except RunError:  # what `latest` names is not there, or not finished
        latest, damaged = None, folder / (folder / "latest").read_text(errors="replace").strip()
    if latest is None or damaged is not None:
        whole = newest_whole(folder, besides=damaged or folder)
        if whole is None:
            raise RunError(
                "no checkpoint is whole", where=folder, fix="Nothing was changed. Restore the run from a copy."
            )
        done.append(f"returned to checkpoint {whole.name}")
        if not dry_run:
            write_atomically(folder / "latest", whole.name + "\n")
        if damaged is not None and damaged.parent == folder and damaged.is_dir():
            aside = _free(damaged.with_name(f"{damaged.name}.damaged"))
            done.append(f"put checkpoint {damaged.name} aside as {aside.name}")
            if not dry_run:
                damaged.rename(aside)
        updates = read_state(whole)["updates"]
        done.append(f"returned to {', '.join(f'{count:,} updates of {name}' for name, count in updates.items())}")
        for report in _later(path / "reports", whole.name, updates):
            done.append(f"put the report {report.name} aside: its weights are gone")
            if not dry_run:
                report.rename(_free(report.with_name(f"{report.name}.aside")))
    for left in sorted(folder.glob(".*.partial")):
        done.append(f"removed {left.name}, left by a process that was stopped")
        if not dry_run:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    return done


def _later(reports: Path, checkpoint: str, updates: dict[str, int]) -> list[Path]:
    """Reports about weights that came after a checkpoint; those of a pipeline name the one before them."""

    def is_later(report: Path) -> bool:
        try:
            content = json.loads(report.read_text(encoding="utf-8"))
            if str(content["checkpoint"]) > checkpoint:
                return True
            return any(content.get("updates", {}).get(name, 0) > count for name, count in updates.items())
        except DAMAGE:
            return False

    return [report for report in sorted(reports.glob("*.json")) if is_later(report)]


def _free(path: Path) -> Path:
    """The path, or one with a number behind it where that is taken."""
    number = 1
    found = path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found
