"""Runs in object stores: a directory of this machine that stands for s3://bucket/runs/pong while a process works.

Training libraries want files, and a checkpoint is many of them. So a run at a URL is fetched when it is opened, worked
on in a directory of the process's own under `IRIS_CACHE`, and published: a checkpoint's files first, its `done` next,
then the reports and logs, and `checkpoints/latest` last, so that the store names a whole checkpoint at any instant.
The store is the truth: what a kill left unpublished is gone, and with it its directory at the next start.
"""

import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from iris_cli.aliases import alias
from iris_cli.errors import RunError, StoreError
from iris_cli.object_store import (
    Location,
    Stored,
    StoreURL,
    cache_folder,
    download,
    listing,
    lock_file,
    look,
    patiently,
    put,
    remove,
    together,
)

LATEST = "checkpoints/latest"
CARD = "run.yaml"  # without it there is no run
KEPT = 2  # checkpoints in the store, as on disk
_ATTEMPTS = 3  # at fetching while somebody else replaces checkpoints
_reading: dict[StoreURL, "WorkingCopy"] = {}


class WorkingCopy:
    """The directory of one process for a run at a URL.

    Attributes:
        url: of the run.
        directory: that stands for it, of the same name; removed when the copy is let go.
    """

    def __init__(self, url: StoreURL) -> None:
        self.url = url
        self.directory = _place() / url.name
        alias(self.directory, url)
        self._there: dict[str, Stored] = {}  # objects, as last listed
        self._known: dict[str, tuple[int, int] | None] = {}  # file -> as fetched or published; None: not fetched
        weakref.finalize(self, _clear, self.directory.parent, os.getpid())

    def lock_here(self, directory: Path) -> None:
        """Let the lock of this directory be one for the URL, which all processes of this machine share."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / ".lock").symlink_to(lock_file(self.url))

    def fetch(self, *, weights: bool = False, optimizers: bool = False, everything: bool = False) -> Path:
        """Bring the directory to what the store has: everything but checkpoints, and of the latest one what is wanted.

        `everything`: of all checkpoints.

        Raises:
            StoreError: if the store refuses or does not answer.
            RunError: if the run is replaced again and again meanwhile.
        """
        if not self.directory.exists():
            self.lock_here(self.directory)
        unwanted = {*(() if weights else ("weights.safetensors",)), *(() if optimizers else ("optimizers.pt",))}
        for _ in range(_ATTEMPTS):
            there = {name: one for name, one in listing(self.url).items() if _is_shared(name)}
            latest = self._latest(there)
            wanted = [
                name
                for name in there
                if everything
                or not name.startswith("checkpoints/")
                or name == LATEST
                or (name.startswith(f"checkpoints/{latest}/") and PurePosixPath(name).name not in unwanted)
            ]
            try:
                stale = [name for name in wanted if not self._has(name, there[name])]
                together([self._download(name, there[name]) for name in stale], self.url)
            except FileNotFoundError:  # a checkpoint that is no longer one of the newest
                continue
            for name in self._known.keys() - there.keys():
                (self.directory / name).unlink(missing_ok=True)
                del self._known[name]
            self._there = there
            return self.directory
        raise RunError("the run changes faster than it can be fetched", where=self.url, fix="Try again.")

    def publish(self) -> None:
        """Bring what is new in the directory to the store, in the order that keeps the run whole there.

        Raises:
            StoreError: if the store refuses or does not answer, or another machine has published meanwhile.
        """
        files = {
            path.relative_to(self.directory).as_posix(): path
            for path in self.directory.rglob("*")
            if path.is_file() and not path.is_symlink()
        }
        new = {name: path for name, path in files.items() if _is_shared(name) and self._known.get(name) != _state(path)}
        last = {LATEST} & new.keys()
        if last:
            self._check_unchanged()
        marks = {name for name in new if name.startswith("checkpoints/") and name.endswith("/done")}
        card = {CARD} & new.keys()
        for names in (new.keys() - marks - last - card, marks, last, card):
            together([self._upload(name, new[name]) for name in sorted(names)], self.url)
        if last:
            with suppress(StoreError):  # the new one stands, and next time there is less to keep
                self._drop_old_checkpoints()

    def withdraw(self) -> None:
        """Take away what there is of the run in the store."""
        names = sorted(listing(self.url), key=lambda name: name != CARD)
        remove(self.url / name for name in names)

    def _latest(self, there: dict[str, Stored]) -> str:
        """The name in `checkpoints/latest`."""
        if LATEST not in there:
            return ""
        path = self.directory / LATEST
        if not self._has(LATEST, there[LATEST]):
            patiently(self._download(LATEST, there[LATEST]), self.url)
        return path.read_text(encoding="utf-8", errors="replace").strip()

    def _has(self, name: str, stored: Stored) -> bool:
        """Whether the file is what the store has."""
        return self._known.get(name) is not None and name in self._there and self._there[name].tag == stored.tag

    def _download(self, name: str, stored: Stored) -> Callable[[], None]:
        def fetch() -> None:
            path = self.directory / name
            download(self.url / name, stored, path)
            moment = stored.modified.timestamp()
            os.utime(path, (moment, moment))  # by which reports and films are sorted
            self._known[name], self._there[name] = _state(path), stored

        return fetch

    def _upload(self, name: str, path: Path) -> Callable[[], None]:
        """The two files that make it a run only in place of those that are known: another machine may have it too."""
        known, guarded = self._there.get(name), name in (LATEST, CARD)

        def publish() -> None:
            state, size = _state(path), path.stat().st_size
            content = path.read_bytes() if guarded else path
            tag = put(
                self.url / name, content, new=guarded and known is None,
                replacing=known.tag if guarded and known is not None else None,
            )  # fmt: skip
            self._known[name], self._there[name] = state, Stored(size, tag, datetime.now(UTC))

        return publish

    def _check_unchanged(self) -> None:
        """Refuse to write a checkpoint's files where another machine has published one, whose lock is not seen here."""
        known, found = self._there.get(LATEST), look(self.url / LATEST)
        if known is not None and (found is None or found.tag != known.tag):
            raise RunError(
                "another machine has saved this run since it was opened", where=self.url,
                fix="Let one process at a time train it.",
            )  # fmt: skip

    def _drop_old_checkpoints(self) -> None:
        latest = (self.directory / LATEST).read_text(encoding="utf-8").strip()
        names = [name for name in self._there if name.startswith("checkpoints/") and name != LATEST]
        numbers = sorted({name.split("/")[1] for name in names} - {latest})
        old = [name for name in names if name.split("/")[1] in numbers[: -(KEPT - 1)]]
        remove(self.url / name for name in sorted(old, key=lambda name: not name.endswith("/done")))
        for name in old:
            del self._there[name]
            self._known.pop(name, None)


def at_hand(run: Location, *, weights: bool = False, everything: bool = False) -> Path:
    """A directory to read a run from: its own, or of a URL a copy that is brought up to date at each call.

    Raises:
        StoreError: if the store refuses or does not answer.
        RunError: as `WorkingCopy.fetch`.
    """
    if isinstance(run, Path):
        return run
    if run not in _reading:
        _reading[run] = WorkingCopy(run)
    return _reading[run].fetch(weights=weights, everything=everything)


def publish(run: Location) -> None:
    """Bring to the store what was written into the directory that `at_hand` gave; nothing where that is the run's own.

    Raises:
        StoreError: if the store refuses or does not answer.
    """
    if isinstance(run, StoreURL):
        _reading[run].publish()


def _place() -> Path:
    """A new folder that is this process's, after those of processes that were killed are removed."""
    folder = cache_folder() / "working"
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.iterdir():
        owned = _owned(left)
        if owned is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(owned)
    place = Path(tempfile.mkdtemp(dir=folder))
    while _owned(place) is None or not place.exists():  # another process took it for one of those
        place = Path(tempfile.mkdtemp(dir=folder))
    return place


def _owned(place: Path) -> int | None:
    """Become the owner of a folder until the process ends; None if there is one."""
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _clear(place: Path, process: int) -> None:
    if os.getpid() == process:  # and not a child's copy of this object
        shutil.rmtree(place, ignore_errors=True)


def _is_shared(name: str) -> bool:
    """Whether a file belongs to the run: no lock, and nothing half-written."""
    return not any(part.startswith(".") for part in PurePosixPath(name).parts) and not name.endswith(".partial")


def _state(path: Path) -> tuple[int, int]:
    """What changes when a file is written."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size
