"""Checkpoint directories that are whole or invisible.

    checkpoints/
      000041/  weights.safetensors  optimizers.pt  state.json  done
      000042/  ...
      latest   the name of the newest one

A checkpoint is written under a hidden name, flushed, marked `done`, renamed, and only then named by `latest`, so a
kill at any instant leaves the one before in force. Nothing that is loaded can run code: safetensors, JSON,
`torch.load(weights_only=True)`.
"""

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from iris_cli.errors import RunError

KEPT = 2  # newest checkpoints that stay on disk


class Checkpoint(NamedTuple):
    """What one checkpoint holds.

    Attributes:
        weights: name -> tensor, of the whole agent.
        optimizers: component -> optimizer state dict.
        state: plain JSON: counters, random states, cursor, the dataset's committed length.
    """

    weights: dict[str, Tensor]
    optimizers: dict[str, Any]
    state: dict[str, Any]


def write_checkpoint(directory: Path, number: int, checkpoint: Checkpoint) -> Path:
    """Write `directory/number`, make it the latest and drop all but the newest `KEPT`."""
    final, draft = directory / f"{number:06d}", directory / f".{number:06d}.partial"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    weights = {name: tensor.contiguous() for name, tensor in checkpoint.weights.items()}
    save_file(weights, draft / "weights.safetensors")
    torch.save(checkpoint.optimizers, draft / "optimizers.pt")
    (draft / "state.json").write_text(json.dumps(checkpoint.state, indent=1), encoding="utf-8")
    for file in list(draft.iterdir()):
        _flush(file)
    (draft / "done").touch()
    _flush(draft)
    if final.exists():  # left by a run that was killed before `latest` named it
        shutil.rmtree(final)
    draft.rename(final)
    write_atomically(directory / "latest", final.name + "\n")
    for old in sorted(path for path in directory.iterdir() if path.is_dir() and path != final)[: -(KEPT - 1)]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def latest_checkpoint(directory: Path) -> Path | None:
    """The directory that `latest` names, or None where nothing was ever saved.

    Raises:
        RunError: if it names one that is not there or not whole.
    """
    pointer = directory / "latest"
    if not pointer.exists():
        return None
    path = directory / pointer.read_text(encoding="utf-8").strip()
    if path.parent != directory or not (path / "done").exists():
        raise RunError(
            "the latest checkpoint is not whole", where=path, fix=f"Write the name of an older one into {pointer}."
        )
    return path


def read_checkpoint(path: Path, device: torch.device, *, optimizers: bool) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: its directory.
        device: where its tensors go.
        optimizers: whether their states are wanted (three times the weights' size).

    Raises:
        RunError: if a file is missing, damaged, or holds anything but tensors and plain values.
    """
    try:
        weights = load_file(path / "weights.safetensors", device=str(device))
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        loaded = torch.load(path / "optimizers.pt", map_location=device, weights_only=True) if optimizers else {}
    except (OSError, SafetensorError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(
            f"the checkpoint cannot be read ({reason})", where=path,
            fix=f"An older one may lie beside it; write its name into {path.parent / 'latest'}.",
        ) from None  # fmt: skip
    return Checkpoint(weights, loaded, state)


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file so that readers see the old or the new one, never half of it."""
    draft = path.with_name(f".{path.name}.partial")
    draft.write_text(text, encoding="utf-8")
    _flush(draft)
    draft.replace(path)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
