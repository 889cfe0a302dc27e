"""Files that are whole: they take the place of what was there only when they are written, and are on the disk then."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def flush(path: Path) -> None:
    """Wait until a file's content, or a directory's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden file beside `path`, to be written in the body; it takes its place if that ends well, and goes otherwise.

    Raises:
        OSError: of the body or the replacement, naming `path` where it named the hidden file or none.
    """
    draft = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield draft
        flush(draft)
        draft.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(draft)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file so that readers see the old or the new one, never half of it."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")
