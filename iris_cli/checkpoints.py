"""Checkpoint directories that are whole or invisible.

    checkpoints/
      000041/  weights.safetensors  optimizers.pt  state.json  done
      000042/  ...
      latest   the name of the newest one

A checkpoint is written under a hidden name, flushed, marked `done` (which holds a checksum of each file), renamed, and
only then named by `latest`, so a kill at any instant leaves the one before in force. Checksums are compared on loading.
Nothing that is loaded can run code: safetensors, JSON, `torch.load(weights_only=True)`.
"""

import json
import math
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from iris_cli.digests import FILES, MARK, check_files, mark_of
from iris_cli.errors import RunError
from iris_cli.files import flush, write_atomically
from iris_cli.latest import first_line, older

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


def write_checkpoint(
    directory: Path, number: int, checkpoint: Checkpoint, *, check: Callable[[], None] = lambda: None
) -> Path:
    """Write `directory/number`, make it the latest and drop all but the newest `KEPT`.

    Args:
        directory: of the run's checkpoints.
        number: of this one.
        checkpoint: its content.
        check: called once its files are written, before they count; what it raises is raised.

    Raises:
        RunError: if it cannot be written; the one before then stays the latest.
    """
    try:
        return _write(directory, number, checkpoint, check)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save's own errors are of the last kind
        raise RunError(
            f"the checkpoint cannot be written ({first_line(error)})", where=directory,
            fix="The one before it stands; once there is room, the same command goes on from it.",
        ) from None  # fmt: skip


def _write(directory: Path, number: int, checkpoint: Checkpoint, check: Callable[[], None]) -> Path:
    final, draft = directory / f"{number:06d}", directory / f".{number:06d}.partial"
    shutil.rmtree(draft, ignore_errors=True)
    directory.mkdir(exist_ok=True)  # not its parents: a run whose directory was taken away is not to come back in part
    draft.mkdir()
    weights = {name: tensor.contiguous() for name, tensor in checkpoint.weights.items()}
    save_file(weights, draft / "weights.safetensors")
    torch.save(checkpoint.optimizers, draft / "optimizers.pt")
    (draft / "state.json").write_text(json.dumps(checkpoint.state, indent=1), encoding="utf-8")
    for file in list(draft.iterdir()):
        flush(file)
    (draft / MARK).write_text(mark_of(draft), encoding="utf-8")
    flush(draft / MARK)
    flush(draft)
    check()
    if final.exists():  # left by a run that was killed before `latest` named it
        shutil.rmtree(final)
    draft.rename(final)
    flush(directory)
    write_atomically(directory / "latest", final.name + "\n")
    others = [path for path in numbered(directory) if path != final]
    for old in [*others[: -(KEPT - 1)], *directory.glob(".*.partial")]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def numbered(directory: Path) -> list[Path]:
    """The checkpoints of a run in the order of their numbers, whole or not; without what was put aside."""
    return sorted(path for path in directory.iterdir() if path.name.isdigit() and path.is_dir())


def read_checkpoint(path: Path, device: torch.device, *, optimizers: bool) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: its directory.
        device: where its weights go.
        optimizers: whether their states are wanted (three times the weights' size).

    Raises:
        RunError: if a file is missing, damaged, or holds anything but tensors and plain values.
    """
    try:
        check_files(path, FILES if optimizers else (name for name in FILES if name != "optimizers.pt"))
        weights = load_file(path / "weights.safetensors", device=str(device))
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        loaded = _read_tensors(path / "optimizers.pt") if optimizers else {}
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise RunError(
            f"the checkpoint cannot be read ({first_line(error)})", where=path,
            fix=older(path),
        ) from None  # fmt: skip
    return Checkpoint(weights, loaded, state)


def sizes_in(path: Path) -> list[int]:
    """Numbers in each tensor of the weights of a checkpoint, without reading them.

    Raises:
        RunError: if they cannot be read.
    """
    try:
        with safe_open(path / "weights.safetensors", framework="pt") as file:
            return [math.prod(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError, ValueError) as error:
        raise RunError(f"the checkpoint cannot be read ({first_line(error)})", where=path, fix=older(path)) from None


def _read_tensors(path: Path) -> dict[str, Any]:
    """On the CPU: an optimizer moves what belongs on its device, and only that."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about foreign pickles: the error says enough
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make the unpickler raise anything
        raise ValueError(f"{path.name} is damaged, or holds more than tensors: {type(error).__name__}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds something else")
    return content
