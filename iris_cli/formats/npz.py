"""npz files of arrays, as `np.savez` and `np.savez_compressed` write them, read without ever holding all frames.

    observations    (N, H, W, 3), (N, H, W, 1), (N, H, W) or (N, 3, H, W) uint8, that each action was chosen on
    actions         (N,) whole numbers from 0
    rewards         (N,)
    terminations    (N,) bool
    truncations     (N,) bool
    episode_ends    (E,) whole numbers, the step after the last of each episode; may be missing

An npz file is a zip archive, so it may claim anything. What it claims is checked before a byte is unpacked, frames are
unpacked a block at a time, and arrays of Python objects, which would run code, are refused.
"""

import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iris_cli.errors import DAMAGE, DatasetError
from iris_cli.formats.recording import BLOCK_BYTES, MAX_STEPS, Block, Recording, Steps, checked_steps, picture_shape

MAX_BYTES = 1 << 40  # unpacked, in all
MOST_PACKED = 500  # times smaller than unpacked; pictures of games reach 300, archives made to harm 1,000
HARMLESS_BYTES = 1 << 28  # unpacked, for which it does not matter how well they are packed
_STEPS = ("actions", "rewards", "terminations", "truncations")
_REQUIRED = ("observations", *_STEPS)
_PACKING = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
_HEADERS = (tokenize.TokenError, SyntaxError)  # numpy reads a header as words of Python before it does as values


class _Array(NamedTuple):
    """An array of the archive, as its header describes it."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int  # bytes before the first value

    @property
    def values_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_npz(path: Path, *, most_values: int) -> Recording:
    """The steps of an npz file.

    Args:
        path: the file.
        most_values: of a picture.

    Raises:
        DatasetError: if it is not such a file; then, or while its blocks are read.
    """
    with _opened(path) as archive:
        arrays = _arrays(archive, path)
        observations = arrays["observations"]
        if observations.dtype != np.uint8 or len(observations.shape) not in (3, 4):
            raise DatasetError(
                f"observations are {observations.dtype} {observations.shape}, but must be uint8 (N, H, W, 3)",
                where=path, fix="Numbers in [0, 1] become such by (255 * x).round().astype(np.uint8).",
            )  # fmt: skip
        picture_shape(observations.shape[1:], path, most=most_values)
        small = {name: _whole(archive, name, array) for name, array in arrays.items() if name != "observations"}
    steps = checked_steps(**{name: small[name] for name in _STEPS}, ends=small.get("episode_ends"), where=path)
    if observations.shape[0] != len(steps):
        raise DatasetError(f"there are {observations.shape[0]:,} observations, but {len(steps):,} actions", where=path)
    return Recording(
        num_steps=len(steps), num_actions=steps.num_actions, blocks=_blocks(path, observations, steps),
        facts={"format": "npz"},
    )  # fmt: skip


def _blocks(path: Path, observations: _Array, steps: Steps) -> Iterator[Block]:
    item = math.prod(observations.shape[1:])
    count = max(1, BLOCK_BYTES // item)
    with _opened(path) as archive, archive.open("observations.npy") as stream:
        _skip(stream, observations.offset)
        for start in range(0, len(steps), count):
            length = min(count, len(steps) - start)
            content = stream.read(length * item)
            if len(content) != length * item:
                raise DatasetError("observations.npy is cut off", where=path)
            yield steps.block(start, np.frombuffer(content, np.uint8).reshape(length, *observations.shape[1:]))
        stream.read(1)  # at the end of the member its checksum is compared


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive; what goes wrong in reading it becomes our error."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except DatasetError:
        raise
    except (*DAMAGE, *_PACKING, *_HEADERS) as error:
        raise DatasetError(
            f"this is no npz file, or a damaged one ({' '.join(str(error).split())[:120]})", where=path
        ) from None


def _arrays(archive: zipfile.ZipFile, path: Path) -> dict[str, _Array]:
    """The headers of all arrays, once the archive's directory is plausible."""
    members = archive.infolist()
    names = [member.filename.removesuffix(".npy") for member in members]
    known = {*_REQUIRED, "episode_ends"}
    missing, unknown = sorted(set(_REQUIRED) - set(names)), sorted(set(names) - known)
    if missing or unknown or len(set(names)) != len(names):
        what = f"lacks {', '.join(missing)}" if missing else f"holds {', '.join(unknown)[:200] or 'an array twice'}"
        raise DatasetError(
            f"the file {what}", where=path, fix=f"It must hold {', '.join(_REQUIRED)}, and may hold episode_ends."
        )
    for member in members:
        packed, unpacked = member.compress_size, member.file_size
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
            raise DatasetError(f"{member.filename} is packed or locked in a way that np.savez never does", where=path)
        if unpacked > MAX_BYTES or (unpacked > HARMLESS_BYTES and unpacked > MOST_PACKED * packed):
            raise DatasetError(
                f"{member.filename} would unpack from {packed:,} to {unpacked:,} bytes, like an archive made to harm",
                where=path, fix="If it is your own, write it by np.savez, unpacked.",
            )  # fmt: skip
    return {name: _header(archive, member, path) for name, member in zip(names, members, strict=True)}


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> _Array:
    """What the .npy file says of itself, if it is as long as that."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise DatasetError(f"{member.filename} is of format {version}, which plain arrays never are", where=path)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(stream)
        offset = stream.tell()
    if dtype.kind not in "biuf":
        raise DatasetError(f"{member.filename} holds {_kind(dtype)}, not numbers", where=path)
    if is_fortran and len(shape) > 1:
        raise DatasetError(
            f"{member.filename} is in Fortran's order", where=path, fix="Save np.ascontiguousarray(array)."
        )
    array = _Array(dtype, shape, offset)
    if any(size < 0 for size in shape) or offset + array.values_bytes != member.file_size:
        raise DatasetError(
            f"{member.filename} says that it is {dtype} {shape}, but has {member.file_size - offset:,} bytes",
            where=path,
        )
    if member.filename != "observations.npy" and (len(shape) != 1 or not 0 < shape[0] <= MAX_STEPS):
        raise DatasetError(f"{member.filename} has shape {shape}, but must have one value for each step", where=path)
    return array


def _kind(dtype: np.dtype[Any]) -> str:
    return "Python objects, which can run code" if dtype.hasobject else str(dtype)


def _whole(archive: zipfile.ZipFile, name: str, array: _Array) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as stream:
        _skip(stream, array.offset)
        return np.frombuffer(stream.read(), array.dtype).reshape(array.shape)


def _skip(stream: IO[bytes], count: int) -> None:
    stream.read(count)
