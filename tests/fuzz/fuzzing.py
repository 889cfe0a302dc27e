"""Foreign bytes against a parser: what an input may do, how inputs are changed, and what counts as a crash.

A target reads bytes. It may return, or raise an `IrisError`; anything else is a crash: another exception, more than
some seconds of processor time or more memory than there is room for, a file touched outside of the folder it works in,
a process or a connection begun, a class looked up by a pickle. The engine here changes valid inputs with a seeded
random stream, by what they are (trees, archives, lines), so that the same seed tries the same inputs; `soak.py` puts
the coverage-guided one of atheris before it.
"""

import contextlib
import copy
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from iris_cli.errors import IrisError

Mutate = Callable[[bytes, random.Random], bytes]
PACKAGE = Path(__file__).resolve().parents[2] / "iris_cli"
MEMORY = 2 << 30  # bytes that an input may take, above what the process has
SECONDS = 10.0  # of processor time that an input may take


@dataclass(frozen=True)
class Prepared:
    """A target that is ready.

    Attributes:
        seeds: valid inputs, and a few that are known to be wrong.
        parse: reads one input; the current directory is empty, and the only place it may write to.
    """

    seeds: list[bytes]
    parse: Callable[[bytes], object]


@dataclass(frozen=True)
class Target:
    """A parser of foreign bytes.

    Attributes:
        name: of the target.
        prepare: makes seeds and the parser, with a folder of their own.
        mutate: changes an input.
        may_spawn: whether it works by another program (ffmpeg).
        limit: the longest input, bytes.
    """

    name: str
    prepare: Callable[[Path], Prepared]
    mutate: Mutate
    may_spawn: bool = False
    limit: int = 1 << 20


@dataclass(frozen=True)
class Crash:
    """What an input did that it must not.

    Attributes:
        target: whose input it was.
        kind: the exception's type, or what was forbidden.
        where: the innermost line of ours.
        message: in words.
        data: the input.
    """

    target: str
    kind: str
    where: str
    message: str
    data: bytes = field(repr=False)

    @property
    def key(self) -> tuple[str, str, str]:
        """The same for what is probably the same mistake."""
        return self.target, self.kind, self.where


class _Forbidden(BaseException):
    """Something that an input must never bring about; no `except Exception` hides it."""


class _TooSlow(BaseException):
    """Too much processor time."""


# -- watching --------------------------------------------------------------------------------------------------------

_BEGINS = {  # audit events that begin something
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen",
    "socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request", "pickle.find_class", "webbrowser.open",
}  # fmt: skip
_CHANGES = {  # audit events that change a path, and which of their arguments are paths
    "os.remove": 1, "os.rmdir": 1, "os.mkdir": 1, "os.rename": 2, "os.link": 2, "os.symlink": 2, "os.truncate": 1,
    "os.chmod": 1, "os.utime": 1,
}  # fmt: skip
_SPAWNING = {"os.posix_spawn", "os.fork", "subprocess.Popen", "os.exec"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class _Watch:
    """Sees what the process does, by Python's audit events, while it is armed."""

    def __init__(self) -> None:
        self.place: str | None = None  # where changes are allowed; None: not armed
        self.may_spawn = False
        self.seen: list[str] = []
        self._hooked = False

    @contextlib.contextmanager
    def armed(self, place: Path, *, may_spawn: bool) -> Iterator[None]:
        if not self._hooked:
            self._hooked = True
            sys.addaudithook(self._hear)  # there is no way to take one away, so there is one for all
        self.seen, self.may_spawn, self.place = [], may_spawn, os.path.realpath(place)
        try:
            yield
        finally:
            self.place = None

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Within it, nobody looks: for what a target itself does to its folder."""
        place, self.place = self.place, None
        try:
            yield
        finally:
            self.place = place

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.place is None:
            return
        if event in _BEGINS and not (self.may_spawn and event in _SPAWNING):
            self._forbid(f"{event} {str(arguments)[:200]}")
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
            self._check(event, arguments[0])
        elif event in _CHANGES and not (isinstance(arguments[-1], int) and arguments[-1] >= 0 and event != "os.mkdir"):
            for path in arguments[: _CHANGES[event]]:
                self._check(event, path)

    def _check(self, event: str, path: object) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        place = self.place
        assert place is not None
        with self.away():
            try:
                real = os.path.realpath(os.fsdecode(path))
            except (OSError, ValueError):
                return
        if real != place and not real.startswith(place + os.sep) and not real.startswith("/dev/"):
            self._forbid(f"{event} of {real}")

    def _forbid(self, what: str) -> None:
        self.seen.append(what)
        raise _Forbidden(what)


_WATCH = _Watch()
unwatched = _WATCH.away


class Sandbox:
    """An empty folder to parse inputs in, with limits of time and memory. The current directory while it is open."""

    def __init__(self, root: Path) -> None:
        self.place = root / "place"
        self.place.mkdir(parents=True, exist_ok=True)
        self.template = root / "template"
        self.template.mkdir(exist_ok=True)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Sandbox":
        self._stack.enter_context(contextlib.chdir(self.place))
        temporary, handler = tempfile.tempdir, signal.getsignal(signal.SIGPROF)
        tempfile.tempdir = str(self.place)
        signal.signal(signal.SIGPROF, _too_slow)
        bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        limits = resource.getrlimit(resource.RLIMIT_AS)

        def restore() -> None:
            tempfile.tempdir, sys.dont_write_bytecode = temporary, bytecode
            signal.signal(signal.SIGPROF, handler)
            resource.setrlimit(resource.RLIMIT_AS, limits)

        self._stack.callback(restore)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def limit_memory(self) -> None:
        """From now on the process may grow by `MEMORY` only."""
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))

    def prepare(self, target: Target) -> Prepared:
        """The target, with its seeds parsed once: what is imported late is imported before anybody watches."""
        folder = self.template / target.name
        folder.mkdir(exist_ok=True)
        prepared = target.prepare(folder)
        for seed in prepared.seeds:
            self._clear()
            with contextlib.suppress(Exception):
                prepared.parse(seed)
        self._clear()
        return prepared

    def attempt(self, target: Target, prepared: Prepared, data: bytes) -> Crash | None:
        """Parse one input; what went wrong, if anything did."""
        try:
            with _WATCH.armed(self.place, may_spawn=target.may_spawn):
                signal.setitimer(signal.ITIMER_PROF, SECONDS)
                try:
                    prepared.parse(data)
                finally:
                    signal.setitimer(signal.ITIMER_PROF, 0)
        except IrisError:
            pass
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return Crash(target.name, type(error).__name__, _where(error), " ".join(str(error).split())[:300], data)
        finally:
            self._clear()
        if _WATCH.seen:  # and somebody caught it
            return Crash(target.name, "_Forbidden", _WATCH.seen[0][:80], _WATCH.seen[0][:300], data)
        return None

    def _clear(self) -> None:
        for path in os.scandir(self.place):
            if path.is_dir(follow_symlinks=False):
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.unlink(path)


def _too_slow(*_: object) -> None:
    raise _TooSlow(f"more than {SECONDS:g} seconds of processor time")


def _where(error: BaseException) -> str:
    """The innermost line of our package in a traceback, or of anything."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(PACKAGE)]
    frame = (ours or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.name}"


def fuzz(
    target: Target, *, seed: int, inputs: int, root: Path, seconds: float | None = None
) -> tuple[int, list[Crash]]:
    """Try changed seeds; how many inputs were tried, and one crash of each kind.

    Args:
        target: what reads them.
        seed: the same one tries the same inputs.
        inputs: at most.
        root: an empty folder.
        seconds: at most; None: as long as it takes.
    """
    draws, crashes, tried = random.Random(f"{target.name} {seed}"), dict[tuple[str, str, str], Crash](), 0
    with Sandbox(root) as sandbox:
        prepared = sandbox.prepare(target)
        end = None if seconds is None else time.monotonic() + seconds
        sandbox.limit_memory()
        pool = list(prepared.seeds)
        for number in range(inputs):
            if end is not None and time.monotonic() > end:
                break
            data = pool[number] if number < len(pool) else target.mutate(draws.choice(pool), draws)[: target.limit]
            tried += 1
            crash = sandbox.attempt(target, prepared, data)
            if crash is not None:
                crashes.setdefault(crash.key, crash)
    return tried, list(crashes.values())


# -- changing --------------------------------------------------------------------------------------------------------

NASTY: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 255, 2**31, 2**63, -(2**63), 2**64, 10**9, 10**30, 10**400, 0.5, -0.0, 1e308,
    float("nan"), float("inf"), float("-inf"), "", " ", "0", "-1", "1e3", "1e999", "nan", "none", "true", "a" * 300,
    "é☃", "\ud800", "\x00", "\x1b[2J", "../../escape", "/etc/passwd", "..", ".", "{game}", "{seed:>99999999999}",
    "{game.__class__}", "os:getcwd", "minari:x", "2026-11-21", [], [[]], [0], ["a", None], [1] * 300, {},
    {"": None}, {"a": {"b": [1]}}, {"preset": "tiny"}, {"__class__": "x"}, {"py/object": "os.system"},
    {"$type": "x"},
)  # fmt: skip
TOKENS = (
    b"../", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"null", b"-1", b"1e999", b"NaN", b"-Infinity", b"9" * 40,
    b"9" * 5000, b"[" * 3000, b"{\"a\":" * 2000, b"\"" * 3, b"\\ud800", b"!!python/object/apply:os.system ['true']",
    b"!!int ''", b"!!float x", b"!!bool x", b"!!timestamp x", b"!!binary x", b"!!set x", b"!!omap x", b"!!pairs x",
    b"!!null x", b"!!merge x", b"!!value x", b"!!map x", b"!!seq x", b"!!str [x]", b"!!int [x]", b"<<: *a", b"&a ",
    b"*a", b"? ", b"- ", b": ", b"|2\n", b">-\n", b"%YAML 9.9\n---\n", b"---\n", b"...\n", b"0x" + b"f" * 4000,
    b"0b" + b"1" * 99, b"1:59:59", b"\r\n", b"\t", b"\xe2\x80\xa8", b"\x85", b",", b"\"", b"'", b"\n" * 9,
    b"PK\x03\x04", b"\x93NUMPY", b"csubprocess\nrun\n",
)  # fmt: skip


def mutate_bytes(data: bytes, draws: random.Random) -> bytes:
    """A few changes of bits, bytes, runs and known tokens."""
    result = bytearray(data)
    for _ in range(1 + min(int(draws.expovariate(0.7)), 12)):
        place = draws.randrange(len(result) + 1)
        length = min(int(draws.expovariate(0.1)) + 1, 4096)
        match draws.randrange(9):
            case 0 if result:
                result[place % len(result)] ^= 1 << draws.randrange(8)
            case 1 if result:
                result[place % len(result)] = draws.choice((0, 1, 127, 128, 255, draws.randrange(256)))
            case 2:
                del result[place : place + length]
            case 3:
                result[place:place] = draws.randbytes(min(length, 64))
            case 4:
                start = draws.randrange(len(result) + 1)
                result[place:place] = result[start : start + length]
            case 5 | 6:
                result[place:place] = draws.choice(TOKENS)
            case 7:
                token = draws.choice(TOKENS)
                result[place : place + len(token)] = token
            case 8:
                width, form = draws.choice(((1, "B"), (2, "<H"), (4, "<I"), (8, "<Q")))
                number = draws.choice((0, 1, 2**7, 2**15, 2**31, 2**63, 2 ** (8 * width) - 1)) % 2 ** (8 * width)
                result[place : place + width] = struct.pack(form, number)
    return bytes(result)


def mutate_tree(tree: Any, draws: random.Random) -> Any:
    """A copy of plain values with a few of them replaced, removed, doubled or moved."""
    tree = copy.deepcopy(tree)
    for _ in range(1 + min(int(draws.expovariate(1.0)), 6)):
        places = list(_places(tree))
        if not places:
            return draws.choice(NASTY)
        parent, key = draws.choice(places)
        match draws.randrange(8):
            case 0 | 1 | 2:
                parent[key] = copy.deepcopy(draws.choice(NASTY))
            case 3:
                del parent[key]
            case 4:
                other, name = draws.choice(places)
                with contextlib.suppress(LookupError):
                    parent[key] = copy.deepcopy(other[name])
            case 5 if isinstance(parent, dict):
                parent[str(draws.choice(NASTY))[:40]] = parent.pop(key)
            case 6 if isinstance(parent, list):
                parent[key:key] = [copy.deepcopy(parent[key]) for _ in range(draws.randrange(1, 5))]
            case _:
                parent[key] = _nudged(parent[key], draws)
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, item in pairs:
            yield value, key
            waiting.append(item)


def _nudged(value: Any, draws: random.Random) -> Any:
    """Something like it."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int) and abs(value) > 1 << 60:  # more would not fit a float, nor be written out
        return draws.choice((value // 2, 1 << 60, -value))
    if isinstance(value, int):
        return draws.choice((value + 1, value - 1, -value, value * 1000, float(value), str(value)))
    if isinstance(value, float):
        return draws.choice((-value, value * 1e9, float("nan"), int(value) if abs(value) < 1e9 else 0))
    if isinstance(value, str):
        return draws.choice((value + "x", value[:-1], value.upper(), [value], "../" + value, value * 30))
    return draws.choice((str(value), [value], None))


def mutate_json(data: bytes, draws: random.Random) -> bytes:
    """As a tree, most of the time."""
    if draws.random() < 0.25:
        return mutate_bytes(data, draws)
    try:
        return json.dumps(mutate_tree(json.loads(data), draws)).encode()
    except (ValueError, RecursionError, OverflowError):
        return mutate_bytes(data, draws)


def mutate_yaml(data: bytes, draws: random.Random) -> bytes:
    """As a tree, half of the time; else as bytes."""
    if draws.random() < 0.5 or b"*" in data:  # an alias may make a tree of any size
        return mutate_bytes(data, draws)
    try:
        tree = mutate_tree(yaml.safe_load(data), draws)
        return yaml.safe_dump(tree, sort_keys=False).encode()
    except Exception:  # of the reader that is not ours, for what was changed before
        return mutate_bytes(data, draws)


def mutate_lines(inner: Mutate) -> Mutate:
    """Lines swapped, dropped and doubled, or one of them changed by `inner`."""

    def mutate(data: bytes, draws: random.Random) -> bytes:
        lines = data.split(b"\n")
        place = draws.randrange(len(lines))
        match draws.randrange(6):
            case 0:
                return mutate_bytes(data, draws)
            case 1:
                del lines[place]
            case 2:
                lines[place:place] = lines[place : place + draws.randrange(1, 4)]
            case 3:
                draws.shuffle(lines)
            case _:
                lines[place] = inner(lines[place], draws)
        return b"\n".join(lines)

    return mutate


def mutate_zip(inner: Mutate) -> Mutate:
    """The members of an archive: one changed by `inner`, renamed, dropped or doubled, with sums that fit again."""

    def mutate(data: bytes, draws: random.Random) -> bytes:
        if draws.random() < 0.15:
            return mutate_bytes(data, draws)
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                members = [(info.filename, archive.read(info)) for info in archive.infolist()]
        except Exception:
            return mutate_bytes(data, draws)
        if not members:
            return mutate_bytes(data, draws)
        for _ in range(draws.randrange(1, 4)):
            place = draws.randrange(len(members))
            name, content = members[place]
            match draws.randrange(8):
                case 0 if len(members) > 1:
                    del members[place]
                case 1:
                    members[place] = (draws.choice(("../x", "/x", name + "x", "", "a/../../b", "actions.npy")), content)
                case 2:
                    members.append((name, content))
                case _:
                    members[place] = (name, inner(content, draws))
        target = io.BytesIO()
        packing = draws.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
        with (
            contextlib.suppress(ValueError, IndexError),
            zipfile.ZipFile(target, "w", packing) as archive,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # of names that are there twice
            for name, content in members:
                archive.writestr(name, content)
        return target.getvalue()

    return mutate


def mutate_safetensors(data: bytes, draws: random.Random) -> bytes:
    """The header as a tree, with its length right again."""
    try:
        (length,) = struct.unpack("<Q", data[:8])
        header = mutate_json(data[8 : 8 + length], draws)
    except struct.error:
        return mutate_bytes(data, draws)
    if draws.random() < 0.2 or length > len(data):
        return mutate_bytes(data, draws)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]
