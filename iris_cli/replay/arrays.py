"""The arrays of a dataset and its attributes, on disk or in an object store: with settled.py all that knows zarr.

Nothing here knows what the arrays mean, nor how much of them counts: dataset.py does.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from iris_cli.errors import DAMAGE, DatasetError, reason_of
from iris_cli.files import flush
from iris_cli.object_store import Location, StoreURL, client_of, listing, look, patiently, put, remove, together
from iris_cli.replay.fields import Field
from iris_cli.replay.settled import SettledStore, settled

_EVERY_CHUNK = {"array.write_empty_chunks": True}  # also one of zeros, so that a missing one is known to be lost
_DAMAGE = (*DAMAGE, RuntimeError)  # of zarr and its codecs
_MOST_BEYOND = 1 << 17  # chunks of an array beyond what is committed: more than any killed write or rewind leaves

# Where one chunk cannot be read, zarr lets go of the others' tasks, of each of which asyncio tells when Python ends.
logging.getLogger("asyncio").addFilter(lambda record: "zarr" not in record.getMessage())


class Arrays:
    """Arrays by name, each with a time axis that grows, and one mapping of attributes.

    Args:
        path: where they are, or will be.

    Attributes:
        path: the same.
        are_writable: whether they may be changed now.
    """

    def __init__(self, path: Location, *, are_writable: bool) -> None:
        self.path, self.are_writable = path, are_writable
        self._store: Any = SettledStore(client_of(path)) if isinstance(path, StoreURL) else path
        self._open: dict[str, zarr.Array[Any]] = {}  # of an object store, where opening one is a request
        self._committed: str | None = None  # tag of the last commit in an object store, by us or seen when opened

    # Making

    def make(self, attributes: dict[str, Any], fields: Mapping[str, Field]) -> None:
        """Make empty arrays, in an object store in place of whatever is there."""
        is_store = isinstance(self.path, StoreURL)

        def make() -> None:
            group = zarr.create_group(self._store, zarr_format=3, attributes=attributes, overwrite=is_store)
            for name, field in fields.items():
                _create(group, name, field)

        self._change(make)

    def make_anew(self, name: str, field: Field) -> None:
        """Make one empty array, in place of what a killed write may have left."""
        self._open.pop(name, None)
        self._change(lambda: _create(self._group(), name, field, overwrite=True))

    # Attributes

    def note_commit(self) -> None:
        """Take what is there now as known: whatever is put later takes its place, and nothing else's."""
        self._committed = _tag_of(self.path)

    def put_attributes(self, attributes: dict[str, Any]) -> None:
        """Replace all attributes: one file, which zarr replaces by a rename, or one object.

        Raises:
            DatasetError: if they cannot be written.
            IrisError: if another machine has put some since.
        """
        try:
            if isinstance(self.path, StoreURL):  # only in place of what we know, so that of two writers one is stopped
                content = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}, indent=2)
                self._committed = put(self.path / "zarr.json", content.encode(), replacing=self._committed)
            else:
                self._group().update_attributes(attributes)
                flush(self.path / "zarr.json")
                flush(self.path)
        except _DAMAGE as error:
            raise DatasetError(f"the attributes cannot be written: {reason_of(error)}", where=self.path) from None

    def check_unchanged(self) -> None:
        """Refuse to write data where another machine has committed something since, whose lock is not seen here."""
        if isinstance(self.path, StoreURL) and self.are_writable and _tag_of(self.path) != self._committed:
            raise DatasetError(
                "somebody else has written to the dataset since it was opened", where=self.path,
                fix="Let one process at a time write to it.",
            )  # fmt: skip

    def check_writable(self) -> None:
        """Refuse to change what is open for reading."""
        if not self.are_writable:
            raise DatasetError("the dataset is not open for writing", where=self.path)

    # Items

    def length(self, name: str, field: Field | None) -> int:
        """Items of an array, whether they count or not."""
        return self._array(name, field).shape[0]

    def chunk(self, name: str, field: Field | None) -> int:
        """Items of each file of an array."""
        return self._array(name, field).chunks[0]

    def check(self, name: str, field: Field | None, length: int, files: set[str]) -> None:
        """Refuse an array that cannot hold so many items, or lacks some of the files that hold them."""
        array = self._array(name, field)
        if not length <= array.shape[0] <= length + _MOST_BEYOND * array.chunks[0]:
            raise self.damaged(name, f"has {array.shape[0]} of {length}")
        # zarr reads a missing chunk as zeros
        missing = [number for number, chunk in enumerate(_chunks(array, 0, length)) if chunk not in files]
        if missing:
            raise self.damaged(name, f"lacks {len(missing)} chunk{'s' * (len(missing) > 1)}, the first is {missing[0]}")

    def check_all(self, parts: Sequence[tuple[str, Field | None, int]]) -> None:
        """The same of several, by name, field (None: tokens) and items."""
        files = self.files()
        self._at_once([partial(self._array, name, field) for name, field, _ in parts])
        for name, field, length in parts:
            self.check(name, field, length, files(name))

    def read(self, name: str, field: Field | None, start: int, stop: int) -> np.ndarray:
        """Items start..stop of an array.

        Raises:
            DatasetError: if some cannot be read.
        """
        array = self._array(name, field)
        try:
            return patiently(lambda: np.asarray(array[start:stop]), self.path)
        except _DAMAGE as error:
            raise self.damaged(name, f"has unreadable chunks: {error}") from None
        except MemoryError:  # a chunk of a few bytes may say that it unpacks to any size
            raise self.damaged(name, "has a chunk that takes more memory than there is") from None

    def read_all(self, fields: Mapping[str, Field], length: int) -> list[np.ndarray]:
        """The first items of several arrays."""
        return self._at_once([partial(self.read, name, field, 0, length) for name, field in fields.items()])

    def write(self, name: str, field: Field, start: int, values: np.ndarray) -> None:
        """Put values at `start`, and cut what lies after them: leftovers of a killed write or a rewind."""
        self.check_writable()
        array = self._array(name, field)

        def write() -> None:
            array.resize((start + len(values), *field.item_shape))
            array[start:] = np.asarray(values, dtype=field.dtype)
            if isinstance(self.path, Path):
                flush(self.path / name / "zarr.json")
                for chunk in _chunks(array, start, start + len(values)):
                    flush(self.path / name / chunk)
                flush(self.path / name)

        try:
            self._change(write)
        except _DAMAGE as error:
            raise DatasetError(f"the array {name} cannot be written: {reason_of(error)}", where=self.path) from None

    def write_all(self, writes: Sequence[tuple[str, Field, int, np.ndarray]]) -> None:
        """The same of several."""
        self.check_writable()
        self._at_once([partial(self._array, name, field) for name, field, *_ in writes])
        self._at_once([partial(self.write, *write) for write in writes])

    def cut(self, name: str, field: Field | None, length: int) -> None:
        """Drop the items of an array beyond so many."""
        array = self._array(name, field)
        if array.shape[0] > length:
            self._change(partial(array.resize, (length, *array.shape[1:])))

    # Files

    def files(self) -> Callable[[str], set[str]]:
        """From an array to the names of its files; one request for all where they are objects."""
        if isinstance(self.path, Path):
            path = self.path
            return lambda name: set(os.listdir(path / name))
        stored = [name.rpartition("/") for name in listing(self.path)]
        return lambda name: {file for folder, _, file in stored if folder == name}

    def litter(self) -> Iterator[Path]:
        """Files of writes that were killed; there are none among objects."""
        return self.path.rglob("*.partial") if isinstance(self.path, Path) else iter(())

    def names_below(self, name: str) -> list[str]:
        """Of the folders in a folder."""
        folder = self.path / name
        if isinstance(folder, StoreURL):
            return sorted({name.split("/")[0] for name in listing(folder) if "/" in name})
        return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []

    def remove(self, name: str) -> None:
        """Remove an array, or whatever is in its place."""
        path = self.path / name
        if isinstance(path, StoreURL):
            remove(path / name for name in listing(path))
        else:
            shutil.rmtree(path)

    def size(self) -> int:
        """Bytes of all files or objects."""
        if isinstance(self.path, StoreURL):
            return sum(one.size for one in listing(self.path).values())
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def damaged(self, name: str, how: str) -> DatasetError:
        """The error of an array that is not as it was written."""
        fix = "Restore it from a copy, or collect it anew."
        if name.startswith("tokens/"):
            fix = f"iris repair {self.path} drops them, and iris tokenize makes them again."
        return DatasetError(f"the dataset is damaged: {name} {how}", where=self.path, fix=fix)

    # Private

    def _change(self, work: Callable[[], None]) -> None:
        """Do what may be done again; in an object store until it is done, never before the last try is over."""
        patiently(lambda: settled(work), self.path)

    def _group(self) -> zarr.Group:
        return zarr.open_group(self._store, mode="r+", zarr_format=3, use_consolidated=False)

    def _array(
        self, name: str, field: Field | None
    ) -> "zarr.Array[Any]":  # the oldest zarr that we allow has no such type at run time
        if name in self._open:
            return self._open[name]
        mode: Any = "r+" if self.are_writable else "r"
        try:
            with zarr.config.set(_EVERY_CHUNK):
                array = patiently(lambda: zarr.open_array(self._store, path=name, mode=mode, zarr_format=3), self.path)
        except _DAMAGE as error:
            raise self.damaged(name, f"cannot be opened: {error}") from None
        if 0 in array.chunks:
            raise self.damaged(name, f"has chunks of shape {array.chunks}")
        if field is not None and (array.dtype != field.dtype or array.shape[1:] != field.item_shape):
            raise self.damaged(name, f"has dtype {array.dtype} and shape {array.shape}")
        if field is None and (array.dtype != "uint16" or array.ndim != 2):
            raise self.damaged(name, f"has dtype {array.dtype} and shape {array.shape}")
        if isinstance(self.path, StoreURL):
            self._open[name] = array
        return array

    def _at_once(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """What some calls give; those that wait for an object store wait together."""
        if isinstance(self.path, Path):
            return [call() for call in calls]
        with zarr.config.set(_EVERY_CHUNK):  # once around all threads: each puts back what it found
            return together(calls, self.path)


def _tag_of(path: Location) -> str | None:
    """Of the last commit; None on disk, where locks suffice."""
    stored = look(path / "zarr.json") if isinstance(path, StoreURL) else None
    return None if stored is None else stored.tag


def _chunks(array: "zarr.Array[Any]", start: int, stop: int) -> list[str]:
    """The names of the files that items start..stop of an array lie in."""
    size, suffix = array.chunks[0], ".0" * (array.ndim - 1)
    return [f"c.{number}{suffix}" for number in range(start // size, -(-stop // size))]


def _create(group: zarr.Group, name: str, field: Field, *, overwrite: bool = False) -> None:
    group.create_array(
        name,
        shape=(0, *field.item_shape),
        chunks=(field.chunk, *field.item_shape),
        dtype=field.dtype,
        compressors=ZstdCodec(level=1, checksum=True),
        chunk_key_encoding={"name": "default", "separator": "."},  # all chunks in one folder
        fill_value=False if field.dtype == "bool" else 0,
        overwrite=overwrite,
    )
