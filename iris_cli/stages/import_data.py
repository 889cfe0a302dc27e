"""`iris import`: frames and actions that others recorded become a dataset. The way back: `iris export`.

Sources: an npz file, a film with a CSV of actions, a Minari dataset (iris_cli/formats/). Pictures of any size go
through the resize of the Atari path. All is read in blocks, and the dataset appears under its name once it is whole.
"""

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iris_cli import console, interrupts
from iris_cli.envs.pictures import MAX_PIXELS, frame_of, layout_of
from iris_cli.envs.spec import EnvSpec, imported_spec, training_spec
from iris_cli.envs.vector import VectorEnv
from iris_cli.errors import ConfigError, DatasetError, Interrupted, reason_of
from iris_cli.formats.minari import PREFIX, folder_of, is_minari, read_minari
from iris_cli.formats.npz import read_npz
from iris_cli.formats.recording import MAX_ACTIONS, Block, Recording
from iris_cli.formats.video import read_video
from iris_cli.object_store import Location, StoreURL, upload
from iris_cli.replay.dataset import Dataset
from iris_cli.replay.lock import take_lock
from iris_cli.report import Report

COMMIT_STEPS = 1024  # between two commits
FILMS = (".mp4", ".m4v", ".mov")
WRITER = "imported"  # who acted, as far as the dataset knows


@dataclass(frozen=True, kw_only=True)
class Import:
    """What to import, and what the files do not say."""

    out: Location | None = None  # None: data/ and the source's name
    csv: Path | None = None  # the actions of a film; None: the film's name with .csv
    actions: str | None = None  # how many there are, or their names with commas; None: by the largest that occurs
    env: str | None = None  # the game that was recorded, where there is one to play; None: there is none
    licence: str = "unknown"  # of the data


def import_data(source: str, settings: Import) -> Report:
    """Make a dataset of a recording.

    Args:
        source: a .npz or .mp4 file, the folder of a Minari dataset, or minari:ID.
        settings: see `Import`.

    Raises:
        DatasetError: if it is not what it should be; then nothing is left behind.
        ConfigError: if it is of no kind that is known, or a setting does not fit it.
        Interrupted: after Ctrl-C; nothing is left behind.
    """
    path = _file_of(source)
    name = source.removeprefix(PREFIX) if source.startswith(PREFIX) else path.stem
    target: Location = settings.out or Path("data") / f"{_as_file_name(name)}.zarr"
    recording = _recording(path, settings)
    environment, meanings = _environment(name, recording, settings)
    facts = {"source": path.name, "licence": settings.licence, **recording.facts}
    with _appearing(target, environment, meanings, facts, keeps_finals=recording.keeps_finals) as dataset:
        _fill(dataset, recording, path)
        figures: dict[str, float | int | str] = {
            "steps": dataset.num_steps,
            "episodes": dataset.num_episodes,
            "actions": dataset.num_actions,
            "environment": environment.name,
            "licence": settings.licence,
        }
    return Report(stage="import", figures=figures, files={"dataset": target}, notes=_notes(environment, settings))


def _notes(environment: EnvSpec, settings: Import) -> tuple[str, ...]:
    notes = []
    if settings.licence == "unknown":
        notes.append("the licence of this data is unknown; --licence keeps it with the data")
    if environment.kind == "imported":
        notes.append("no game was named (--env), so this data trains and dreams, but nothing can be played")
    return tuple(notes)


def _file_of(source: str) -> Path:
    path = folder_of(source.removeprefix(PREFIX)) if source.startswith(PREFIX) else Path(source)
    if not path.exists():
        raise DatasetError("there is no such file", where=path, fix="Name a .npz or .mp4 file, or a Minari dataset.")
    if not (path.is_file() or path.is_dir()):
        raise DatasetError("this is neither a file nor a folder", where=path)
    return path


def _as_file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "imported"


def _recording(path: Path, settings: Import) -> Recording:
    """The steps of whatever kind of file this is."""
    is_film = path.suffix.lower() in FILMS
    if settings.csv is not None and not is_film:
        raise ConfigError("only a film needs a CSV file of actions", where="--csv")
    if path.is_dir():
        if not is_minari(path):
            raise ConfigError("this folder is no Minari dataset", where=path, fix="It would hold data/metadata.json.")
        return read_minari(path, most_values=3 * MAX_PIXELS)
    if is_film:
        rows = settings.csv or path.with_suffix(".csv")
        if not rows.is_file() or (settings.csv is None and rows.is_symlink()):
            raise DatasetError("there is no CSV file of its own with its actions", where=rows, fix="Name it by --csv.")
        return read_video(path, rows, most_pixels=MAX_PIXELS)
    if path.suffix.lower() == ".npz":
        return read_npz(path, most_values=3 * MAX_PIXELS)
    raise ConfigError(
        f"'{path.name}' does not say what it is", fix=f"Known are .npz, {', '.join(FILMS)} and the folders of Minari."
    )


def _environment(name: str, recording: Recording, settings: Import) -> tuple[EnvSpec, list[str]]:
    """What was recorded, and a word for each of its actions."""
    if settings.env is not None:
        environment = training_spec(settings.env)
        with VectorEnv(environment, 1) as envs:
            meanings = envs.action_meanings
    else:
        environment = imported_spec(re.sub(r"[^A-Za-z0-9_./-]+", "-", name))
        meanings = [str(action) for action in range(recording.num_actions)]
    if settings.actions is not None:
        meanings = _named_actions(settings.actions, meanings if settings.env is not None else None)
    if recording.num_actions > len(meanings):
        raise DatasetError(
            f"action {recording.num_actions - 1} occurs, but there are {len(meanings)} actions", where=name,
            fix="See --actions and --env.",
        )  # fmt: skip
    if len(meanings) > MAX_ACTIONS:
        raise DatasetError(f"there are {len(meanings):,} actions, more than the {MAX_ACTIONS} that can be", where=name)
    return environment, meanings


def _named_actions(given: str, known: list[str] | None) -> list[str]:
    names = [name.strip() for name in given.split(",")]
    if given.strip().isdecimal():
        if not 0 < int(given) <= MAX_ACTIONS:
            raise ConfigError(f"{given} actions cannot be; 1 to {MAX_ACTIONS} can", where="--actions")
        names = [str(action) for action in range(int(given))]
    if not all(names) or len(set(names)) != len(names):
        raise ConfigError("a name is missing, or there twice", where="--actions", fix="Such as NOOP,LEFT,RIGHT or 3.")
    if known is not None and len(known) != len(names):
        raise ConfigError(f"{len(names)} actions were named, but the game has {len(known)}", where="--actions")
    return names


@contextmanager
def _appearing(
    target: Location, environment: EnvSpec, meanings: list[str], facts: dict[str, Any], *, keeps_finals: bool
) -> Iterator[Dataset]:
    """A dataset beside `target` that takes its name once all has gone well, and is gone if not."""
    if target.exists() or target.is_symlink():
        raise DatasetError("something is there already", where=target, fix="Name another: --out data/NAME.zarr.")
    if isinstance(target, StoreURL):
        with tempfile.TemporaryDirectory(prefix="iris-") as folder:
            with _appearing(
                Path(folder) / target.name, environment, meanings, facts, keeps_finals=keeps_finals
            ) as dataset:
                yield dataset
            upload(Path(folder) / target.name, target, last="zarr.json")
        return
    _sweep(target)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}.importing")
    try:
        with Dataset.create(
            draft, environment=environment.to_mapping(), action_meanings=meanings, attributes={"imported": facts},
            keeps_finals=keeps_finals,
        ) as dataset:  # fmt: skip
            yield dataset
            draft.rename(target)
    except DatasetError as error:
        raise DatasetError(error.what, where=target if error.where == draft else error.where, fix=error.fix) from None
    except OSError as error:
        raise DatasetError(f"the dataset cannot be written: {reason_of(error)}", where=target) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _sweep(target: Path) -> None:
    """Remove what imports to the same place left that were killed; those under way hold a lock."""
    for left in target.parent.glob(f".{target.name}.*.importing"):
        try:
            lock = take_lock(left / "actions" / ".lock", what="dataset", where=left, error=DatasetError)
        except DatasetError:
            continue
        shutil.rmtree(left, ignore_errors=True)
        os.close(lock.descriptor)


def _fill(dataset: Dataset, recording: Recording, path: Path) -> None:
    """Append all steps, as frames."""
    waiting: list[_Frames] = []
    with console.progress(f"import {path.name}", recording.num_steps, "steps") as bar:
        for block in recording.blocks:
            waiting.append(_Frames(block, path))
            bar.advance(len(block.actions))
            if interrupts.requested():
                raise Interrupted("import stopped; nothing was written.")
            if sum(len(one.block.actions) for one in waiting) >= COMMIT_STEPS:
                _append(dataset, waiting)
                waiting = []
        if waiting:
            _append(dataset, waiting)


class _Frames:
    """A block whose pictures have become frames (n, 64, 64, 3); the pictures are let go."""

    def __init__(self, block: Block, path: Path) -> None:
        self.frames = _resized(block.images, path)
        self.finals = _resized(block.finals, path)
        self.block = Block(**{**vars(block), "images": (), "finals": ()})


def _resized(images: Any, path: Path) -> np.ndarray:
    frames = np.empty((len(images), 64, 64, 3), np.uint8)
    for index, image in enumerate(images):
        layout = layout_of(image.shape)
        if layout is None:
            raise DatasetError(
                f"pictures of shape {image.shape} could be anything", where=path,
                fix="They must be (H, W, 3), (H, W, 1), (H, W) or (3, H, W).",
            )  # fmt: skip
        frames[index] = frame_of(image, layout)
    return frames


def _append(dataset: Dataset, blocks: list[_Frames]) -> None:
    """Commit blocks; an episode that goes on from one to the next is one piece."""
    lengths: list[int] = []
    ids: list[int] = []
    following = dataset.num_episodes
    for block in (one.block for one in blocks):
        for index, length in enumerate(block.lengths):
            if index == 0 and block.continues and ids:
                lengths[-1] += length
                continue
            goes_on = index == 0 and block.continues
            ids.append(following - 1 if goes_on else following)
            following += not goes_on
            lengths.append(length)
    names = ("actions", "rewards", "terminations", "truncations")
    values: dict[str, Any] = {name: np.concatenate([getattr(one.block, name) for one in blocks]) for name in names}
    dataset.append(
        observations=np.concatenate([one.frames for one in blocks]),
        **values,
        episode_lengths=lengths, episode_ids=ids, writer=WRITER,
        finals=np.concatenate([one.finals for one in blocks]),
    )  # fmt: skip
