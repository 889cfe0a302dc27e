"""An mp4 film and a CSV file with one row for each of its frames: read, and written.

The CSV has a line of names, then a row for each frame of the film:

    action       a whole number from 0: what was chosen on this frame; the only column that must be there
    reward       what it earned (0 where there is no such column)
    terminated   1 or true where the episode ended after it
    truncated    1 or true where it was cut after it
    episode      a whole number that changes where another episode begins

ffmpeg decodes, in a process of its own that may read this one file and nothing else.
"""

import csv
import errno
import os
import re
import subprocess
import tempfile
from array import array
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from iris_cli.errors import DatasetError
from iris_cli.formats.recording import BLOCK_BYTES, MAX_STEPS, Block, Recording, Steps, checked_steps

COLUMNS = ("action", "reward", "terminated", "truncated", "episode")
MAX_LINE = 4096  # characters of a row
_FALSE_TRUE = {"0": 0, "false": 0, "": 0, "1": 1, "true": 1}
_WHOLE = re.compile(r"[+-]?\d{1,18}")


def read_video(path: Path, rows: Path, *, most_pixels: int) -> Recording:
    """The steps of a film and its CSV file.

    Args:
        path: of the film.
        rows: of the CSV file.
        most_pixels: of a frame.

    Raises:
        DatasetError: if one of them is not such a file, or they do not fit; then, or while the blocks are read.
    """
    steps = read_rows(rows)
    return Recording(
        num_steps=len(steps), num_actions=steps.num_actions, blocks=_blocks(path, rows, steps, most_pixels),
        facts={"format": "mp4", "actions_file": rows.name},
    )  # fmt: skip


def _blocks(path: Path, rows: Path, steps: Steps, most_pixels: int) -> Iterator[Block]:
    images: list[NDArray[np.uint8]] = []
    done = size = 0
    with closing(_frames(path, most_pixels)) as frames:
        for image in frames:
            images.append(image)
            size += image.nbytes
            if done + len(images) > len(steps):
                raise DatasetError(
                    f"the film has more frames than the {len(steps):,} rows of {rows.name}", where=path,
                    fix="There must be one row for each frame.",
                )  # fmt: skip
            if size >= BLOCK_BYTES:
                yield steps.block(done, images)
                done, size, images = done + len(images), 0, []
    if done + len(images) != len(steps):
        raise DatasetError(
            f"the film has {done + len(images):,} frames, but {rows.name} {len(steps):,} rows", where=path,
            fix="There must be one row for each frame.",
        )  # fmt: skip
    if images:
        yield steps.block(done, images)


def _frames(path: Path, most_pixels: int) -> Generator[NDArray[np.uint8], None, None]:
    """Every frame of the film (H, W, 3), as PPM pictures out of a pipe, none dropped and none twice."""
    command = [
        *(imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-xerror"),
        *("-protocol_whitelist", "file", "-max_pixels", str(most_pixels), "-f", "mov", "-i", f"file:{path.absolute()}"),
        *("-map", "0:v:0", "-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-c:v", "ppm", "-f", "image2pipe", "-"),
    ]
    with tempfile.TemporaryFile() as complaints:
        ours, theirs = os.pipe()
        with os.fdopen(ours, "rb") as pipe:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=complaints, start_new_session=True
            )
            os.close(theirs)
            try:
                while (image := _picture(pipe, path, most_pixels)) is not None:
                    yield image
                process.wait()
            finally:
                process.kill()
                process.wait()
        if process.returncode != 0:
            complaints.seek(0)
            said = complaints.read(500).decode("utf-8", "replace").splitlines()
            raise DatasetError(
                f"the film cannot be decoded to its end ({_plain(said[0]) if said else process.returncode})", where=path
            )


def _picture(pipe: IO[bytes], path: Path, most_pixels: int) -> NDArray[np.uint8] | None:
    """The next PPM picture, or None at the end."""
    header = [pipe.readline(32) for _ in range(3)]
    if header == [b"", b"", b""]:
        return None
    try:
        width, height = (int(word) for word in header[1].split())
        if header[0] != b"P6\n" or header[2] != b"255\n" or not 0 < width * height <= most_pixels:
            raise ValueError
    except ValueError:
        raise DatasetError("ffmpeg gave something that is no picture", where=path) from None
    content = pipe.read(width * height * 3)
    if len(content) != width * height * 3:
        raise DatasetError("the film breaks off within a frame", where=path)
    return np.frombuffer(content, np.uint8).reshape(height, width, 3)


def _plain(text: str) -> str:
    return re.sub(r"[^\x20-\x7e]", "?", re.sub(r" @ 0x[0-9a-f]+", "", text))[:160]


def read_rows(path: Path) -> Steps:
    """The rows of a CSV file, checked.

    Raises:
        DatasetError: naming the line that is wrong.
    """
    actions, rewards, flags = array("q"), array("d"), (array("b"), array("b"))
    episodes: list[int] = []  # the first rows of episodes, by that column
    last, line = None, 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(_lines(file), strict=True)
            columns = _columns(next(reader, []), path)
            for number, row in enumerate(reader):
                line = reader.line_num
                if number >= MAX_STEPS:
                    raise ValueError(f"there are more than {MAX_STEPS:,} rows")
                if len(row) != len(columns):
                    raise ValueError(f"it has {len(row)} values, but {len(columns)} columns")
                values = dict(zip(columns, row, strict=True))
                actions.append(_whole("action", values["action"]))
                rewards.append(float(values.get("reward", "0")))
                for flag, name in zip(flags, ("terminated", "truncated"), strict=True):
                    flag.append(_flag(name, values.get(name, "0")))
                episode = _whole("episode", values["episode"]) if "episode" in columns else 0
                if episode != last:
                    episodes.append(number)
                    last = episode
    except (ValueError, csv.Error, UnicodeDecodeError) as error:
        raise DatasetError(f"the rows cannot be read: {_plain(str(error))}", where=f"{path}:{line}") from None
    except OSError as error:
        raise DatasetError(
            f"the rows cannot be read: {error.strerror}", where=path, fix="--csv names the file with the actions."
        ) from None
    if not actions:
        raise DatasetError("it has no rows", where=path)
    terminations, truncations = (np.frombuffer(flag, np.int8) for flag in flags)
    over = np.flatnonzero(terminations | truncations) + 1
    return checked_steps(
        actions=np.frombuffer(actions, np.int64), rewards=np.frombuffer(rewards, np.float64),
        terminations=terminations, truncations=truncations,
        ends=np.union1d(over, [*episodes[1:], len(actions)]).astype(np.int64), where=path,
    )  # fmt: skip


def _lines(file: IO[str]) -> Iterator[str]:
    """The lines of a file, none of them endless."""
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise ValueError(f"a line has {MAX_LINE:,} characters or more")
        yield line


def _columns(names: list[str], path: Path) -> list[str]:
    columns = [name.strip().lower() for name in names]
    wrong = [name for name in columns if name not in COLUMNS]
    if wrong or "action" not in columns or len(set(columns)) != len(columns):
        raise DatasetError(
            f"the first line must name columns, action among them, but is {_plain(','.join(names))!r}", where=path,
            fix=f"Known are: {', '.join(COLUMNS)}.",
        )  # fmt: skip
    return columns


def _whole(name: str, text: str) -> int:
    if not _WHOLE.fullmatch(text.strip()):
        raise ValueError(f"{name} is {text[:40]!r}, but must be a whole number")
    return int(text)


def _flag(name: str, text: str) -> int:
    word = text.strip().lower()
    if word not in _FALSE_TRUE:
        raise ValueError(f"{name} is {text[:40]!r}, but must be 0 or 1")
    return _FALSE_TRUE[word]


class FilmWriter:
    """Writes a film and its CSV file, episode after episode. Use `write`, then `close`.

    Args:
        film, rows: the files, which are written over.
        size: width and height of the frames.
        fps: frames per second.
        lossless: keep every pixel, in a film that few players show; else H.264 that all of them do.
    """

    def __init__(self, film: Path, rows: Path, *, size: tuple[int, int], fps: float, lossless: bool) -> None:
        quality: dict[str, Any] = {"codec": "libx264", "output_params": ["-crf", "18", "-movflags", "+faststart"]}
        if lossless:
            quality = {"codec": "libx264rgb", "pix_fmt_out": "rgb24", "output_params": ["-crf", "0"]}
        self._film = imageio_ffmpeg.write_frames(
            str(film), size, fps=fps, quality=None, macro_block_size=2, ffmpeg_log_level="error", **quality
        )
        self._film.send(None)
        self._path, self._frames = film, 0
        self._file = rows.open("w", encoding="utf-8", newline="")
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._rows.writerow(COLUMNS)

    def write(self, block: Block, episode: int) -> None:
        """Add steps of an episode."""
        for image in block.images:
            self._film.send(np.ascontiguousarray(image))
        self._frames += len(block.images)
        flags = zip(block.terminations.tolist(), block.truncations.tolist(), strict=True)
        for action, reward, (terminated, truncated) in zip(
            block.actions.tolist(), block.rewards.tolist(), flags, strict=True
        ):
            self._rows.writerow([action, repr(reward), int(terminated), int(truncated), episode])

    def close(self) -> None:
        """Finish both files.

        Raises:
            OSError: if not all frames are in the film, of which ffmpeg does not tell.
        """
        try:
            self._film.close()
        finally:
            self._file.close()
        if self._frames and count_frames(self._path) != self._frames:
            raise OSError(errno.EIO, "not all of the film could be written; is the disk full?", str(self._path))


def count_frames(film: Path) -> int:
    """How many frames are in a film; 0 where it is none."""
    try:
        return imageio_ffmpeg.count_frames_and_secs(str(film))[0]
    except (OSError, RuntimeError, IndexError):
        return 0
