"""Reading metrics.jsonl, the truth about what a run did, while it is being written or after a kill.

A line is a JSON object that ends with a newline; what a kill or another program left half-written is counted and
passed over. Lines vanish from the end when a run goes on from a checkpoint that is older than they are.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

Line = dict[str, Any]
_TAIL = 64  # bytes before the place read up to that are compared, to notice that lines were taken back


@dataclass(frozen=True)
class Metrics:
    """Some lines of a metrics.jsonl.

    Attributes:
        lines: in order.
        end: bytes read, from the start of the file to the end of the last whole line.
        skipped: whole lines that are no JSON objects.
    """

    lines: list[Line]
    end: int
    skipped: int


def read_metrics(path: Path, start: int = 0, stop: int | None = None) -> Metrics:
    """The whole lines between two byte positions; none where there is no file.

    Args:
        path: a metrics.jsonl.
        start: the beginning of a line.
        stop: read no further; None: to the end.
    """
    if not path.exists():
        return Metrics([], start, 0)
    with path.open("rb") as file:
        file.seek(start)
        content = file.read() if stop is None else file.read(max(0, stop - start))
    whole = content[: content.rfind(b"\n") + 1]
    found = [_object(text) for text in whole.split(b"\n") if text.strip()]
    lines = [line for line in found if line is not None]
    return Metrics(lines, start + len(whole), len(found) - len(lines))


class Follower:
    """Reads a metrics.jsonl that grows: each look gives what is new."""

    def __init__(self, path: Path) -> None:
        self._path, self._end, self._tail = path, 0, b""

    def look(self) -> tuple[list[Line], bool]:
        """New lines, and whether earlier ones were taken back: these are then all lines from the start."""
        anew = self._bytes_before(self._end) != self._tail
        found = read_metrics(self._path, 0 if anew else self._end)
        self._end, self._tail = found.end, self._bytes_before(found.end)
        return found.lines, anew

    def _bytes_before(self, end: int) -> bytes:
        start = max(0, end - _TAIL)
        if not self._path.exists():
            return b""
        with self._path.open("rb") as file:
            file.seek(start)
            return file.read(end - start)


def numbers_of(line: Line) -> dict[str, float]:
    """What was measured when the line was written: its finite numbers, without counters and times."""
    named = line.get("figures") if line.get("event") == "stage" else line
    if not isinstance(named, dict):
        return {}
    return {
        str(name): float(value)
        for name, value in named.items()
        if name not in ("time", "round", "update") and is_number(value)
    }


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _object(text: bytes) -> Line | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # undecodable bytes are a ValueError too
        return None
    return value if isinstance(value, dict) else None
