"""Which checkpoint of a run is in force. Apart from reading and writing them, so that `iris info` needs no torch."""

from pathlib import Path

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
