"""Minari datasets (extra `iris-wm[minari]`): image observations and discrete actions, read and written by episode.

A dataset may ask to have its environment made, or, in HDF5, link to other files. Neither is done: it must say what its
spaces are, its folder must hold plain files only, and what it knows of its environment is kept as text.
"""

import json
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iris_cli.errors import DatasetError
from iris_cli.formats.recording import (
    BLOCK_BYTES,
    MAX_STEPS,
    Block,
    Recording,
    checked_steps,
    picture_shape,
)

PREFIX = "minari:"  # before the id of a dataset in Minari's own folder
_MAX_METADATA = 1 << 26  # bytes; the bounds of every pixel are in it
_MAX_EPISODE = 1 << 33  # bytes of one episode's pictures, which Minari reads at once
_ID = re.compile(r"(?:[-_A-Za-z0-9]+/)*[-_A-Za-z0-9]+-v\d+")
_INSTALL = "pip install 'iris-wm[minari]'"


def folder_of(name: str) -> Path:
    """Where Minari keeps the dataset of an id, such as `atari/pong/expert-v0`.

    Raises:
        DatasetError: if that is no id, or there is no such dataset.
    """
    if not _ID.fullmatch(name):
        raise DatasetError(f"{name!r} is no id of a Minari dataset", fix="Such as minari:atari/pong/expert-v0.")
    root = Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")
    folder = root / name
    if not (folder / "data" / "metadata.json").is_file():
        raise DatasetError("there is no such Minari dataset", where=folder, fix=f"Get it: minari download {name}")
    return folder


def is_minari(path: Path) -> bool:
    """Whether a folder looks like a Minari dataset."""
    return _data_folder(path) is not None


def read_minari(path: Path, *, most_values: int) -> Recording:
    """The steps of a Minari dataset.

    Args:
        path: its folder, or the `data` in that.
        most_values: of a picture.

    Raises:
        DatasetError: if it is not one of images and discrete actions, or Minari is not installed; then, or while its
            blocks are read.
    """
    data = _data_folder(path)
    if data is None:
        raise DatasetError("this is no Minari dataset", where=path)
    _refuse_links(data)
    metadata = _metadata(data)
    shape, first, num_actions = _spaces(metadata, path, most_values)
    episodes, steps = (metadata.get(name) for name in ("total_episodes", "total_steps"))
    if type(episodes) is not int or type(steps) is not int or not (0 < episodes <= steps <= MAX_STEPS):
        raise DatasetError(f"it says that it has {episodes} episodes and {steps} steps", where=path)
    storage = _opened(data, path)
    facts = {
        "format": "minari",
        "dataset_id": str(metadata.get("dataset_id"))[:200],
        "first_action": first,
        **{
            name: str(metadata[name])[:20_000]
            for name in ("env_spec", "algorithm_name", "code_permalink", "minari_version", "description")
            if metadata.get(name)
        },
    }
    blocks = _blocks(storage, path, episodes, steps, shape, first, num_actions)
    return Recording(num_steps=steps, num_actions=num_actions, blocks=blocks, facts=facts, keeps_finals=True)


def _blocks(
    storage: Any, path: Path, episodes: int, steps: int, shape: tuple[int, ...], first: int, num_actions: int
) -> Iterator[Block]:
    done, count = 0, max(1, BLOCK_BYTES // int(np.prod(shape)))
    for number in range(episodes):
        with _minari_errors(path):
            [episode] = storage.get_episodes([number])
            values = {name: np.asarray(episode[name]) for name in _FIELDS}
        where = f"{path}, episode {number}"
        images, actions = values["observations"], values["actions"]
        if images.dtype != np.uint8 or images.shape != (len(actions) + 1, *shape):
            raise DatasetError(
                f"observations are {images.dtype} {images.shape} for {len(actions)} actions", where=where
            )
        if actions.ndim != 1 or actions.dtype.kind not in "iu":
            raise DatasetError(f"actions are {actions.dtype} {actions.shape}", where=where)
        if len(actions) and not first <= int(actions.min()) <= int(actions.max()) < first + num_actions:
            raise DatasetError(f"actions are not in {first} to {first + num_actions - 1}", where=where)
        own = checked_steps(
            actions=actions.astype(np.int64) - first, rewards=values["rewards"], terminations=values["terminations"],
            truncations=values["truncations"], ends=np.array([len(actions)]), where=where,
        )  # fmt: skip
        for start in range(0, len(own), count):
            block = own.block(start, images[start : min(start + count, len(own))])
            is_last = start + count >= len(own)
            yield Block(**{**vars(block), "finals": images[-1:] if is_last else ()})
        done += len(own)
    if done != steps:
        raise DatasetError(f"it says that it has {steps} steps, but has {done}", where=path)


_FIELDS = ("observations", "actions", "rewards", "terminations", "truncations")


class MinariWriter:
    """Writes a Minari dataset, a whole episode at a time.

    Args:
        folder: to make, with the dataset in its `data`.
        name: the dataset's id.
        shape: of a frame.
        num_actions: of the game.
        first_action: the number of the first one.
        env_spec: of Gymnasium, as JSON; None where there is none.
        description: for people.

    Raises:
        DatasetError: if Minari is not installed, or the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        shape: tuple[int, ...],
        num_actions: int,
        first_action: int,
        env_spec: str | None,
        description: str,
    ) -> None:
        minari = _package()
        from minari.data_collector.episode_buffer import EpisodeBuffer  # an extra
        from minari.dataset.minari_storage import MinariStorage
        from minari.serialization import deserialize_space

        self._buffer = EpisodeBuffer
        box = {"type": "Box", "dtype": "uint8", "shape": list(shape)}
        bounds = {name: np.full(shape, value).tolist() for name, value in (("low", 0), ("high", 255))}
        actions = {"type": "Discrete", "dtype": "int64", "start": first_action, "n": num_actions}
        folder = folder.absolute()  # Minari measures its size by joining a relative path to itself
        folder.mkdir(parents=True)
        self._storage = MinariStorage.new(
            folder / "data", observation_space=deserialize_space(json.dumps(box | bounds)),
            action_space=deserialize_space(json.dumps(actions)), data_format="hdf5", jpeg_encoding=False,
        )  # fmt: skip
        facts = {"dataset_id": name, "minari_version": minari.__version__, "description": description}
        self._storage.update_metadata(facts | ({"env_spec": env_spec} if env_spec else {}))

    def write(
        self,
        *,
        observations: NDArray[np.uint8],
        actions: NDArray[np.int64],
        rewards: NDArray[np.float32],
        terminations: NDArray[np.bool_],
        truncations: NDArray[np.bool_],
    ) -> None:
        """Add an episode of T steps: T + 1 observations, T of everything else."""
        self._storage.update_episodes(
            [
                self._buffer(
                    observations=observations,
                    actions=actions,
                    rewards=rewards,
                    terminations=terminations,
                    truncations=truncations,
                )
            ]
        )


def _data_folder(path: Path) -> Path | None:
    return next((folder for folder in (path / "data", path) if (folder / "metadata.json").is_file()), None)


def _refuse_links(data: Path) -> None:
    """Go on only where the folder holds plain files and folders."""
    if data.is_symlink():
        raise DatasetError("its data is a link, which may lead anywhere", where=data)
    for path in data.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise DatasetError("it holds a link, which may lead anywhere", where=path)


def _metadata(data: Path) -> dict[str, Any]:
    file = data / "metadata.json"
    try:
        if file.stat().st_size > _MAX_METADATA:
            raise ValueError("it is too large")
        metadata = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(metadata, dict):
            raise ValueError("it is no mapping")
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"metadata.json cannot be read ({str(error)[:120]})", where=file) from None
    return metadata


def _spaces(metadata: dict[str, Any], path: Path, most_values: int) -> tuple[tuple[int, ...], int, int]:
    """The shape of its pictures, its first action, and how many there are."""
    try:
        seen, acted = (json.loads(metadata[name]) for name in ("observation_space", "action_space"))
        kinds = seen["type"], acted["type"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise DatasetError("its metadata does not say what is observed and done", where=path) from None
    if kinds[0] == "Dict":
        raise DatasetError("it observes a Dict, but only images are supported", where=path)
    if kinds[1] != "Discrete":
        raise DatasetError(f"its actions are {kinds[1]}, but only Discrete actions are supported", where=path)
    shape, first, count = seen.get("shape"), acted.get("start", 0), acted.get("n")
    whole = isinstance(shape, list) and all(type(size) is int for size in [*shape, first, count])
    if kinds[0] != "Box" or seen.get("dtype") != "uint8" or not whole or len(shape) not in (2, 3):
        raise DatasetError(
            f"it observes {str(kinds[0])[:20]} {str(seen.get('dtype'))[:20]} {str(shape)[:40]}, but only images are "
            "supported, uint8 (H, W, 3), (H, W) or (3, H, W)", where=path,
        )  # fmt: skip
    if count < 1:
        raise DatasetError(f"it has {count} actions", where=path)
    return picture_shape(shape, path, most=most_values), first, count


def _opened(data: Path, path: Path) -> Any:
    _package()
    from minari.dataset.minari_storage import MinariStorage  # an extra

    with _minari_errors(path):
        storage = MinariStorage.read(data)
        if storage.FORMAT == "hdf5":
            _refuse_foreign_data(data / "main_data.hdf5")
    return storage


def _refuse_foreign_data(file: Path) -> None:
    """Go on only with an HDF5 file whose data lie in itself, and whose episodes fit into memory."""
    import h5py  # an extra, as Minari is

    def check(group: Any) -> None:
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise DatasetError(f"{name} links to somewhere else", where=file)
            item = group[name]
            if isinstance(item, h5py.Group):
                check(item)
            elif item.external or item.is_virtual:
                raise DatasetError(f"{name} lies in another file", where=file)
            elif item.size is not None and item.size * item.dtype.itemsize > _MAX_EPISODE:
                raise DatasetError(f"{item.name} would take {item.size * item.dtype.itemsize:,} bytes", where=file)

    with h5py.File(file, "r") as content:
        check(content)


@contextmanager
def _minari_errors(path: Path) -> Iterator[None]:
    """Within it, whatever Minari and its libraries raise for a damaged dataset becomes our error."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*decompression bomb")  # Pillow's
            yield
    except DatasetError:
        raise
    except Exception as error:  # of half a dozen libraries; an ImportError is one of their extras
        missing = isinstance(error, ImportError)
        raise DatasetError(
            f"the Minari dataset cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:160]})",
            where=path, fix=f"Install it: {_INSTALL}" if missing else None,
        ) from None  # fmt: skip


def _package() -> ModuleType:
    """The package minari.

    Raises:
        DatasetError: if it is not installed.
    """
    try:
        import minari  # an extra
    except ImportError as error:
        raise DatasetError(f"Minari cannot be imported ({error})", fix=f"Install it: {_INSTALL}") from None
    return minari
