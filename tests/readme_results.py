"""Figures in a document beside the results they come from.

A line of a document, or a row of a table, that states measured figures is followed (or, for a table, preceded) by a
comment that no reader sees:

    Full size, 2,462 hours on an AMD EPYC.
    <!-- results: tests/perf/results/x.json predicted_hours=2,462 device="AMD EPYC" -->

Each `key=figure` says that the file has, at that key, a number that is `figure` when it is rounded to as many digits,
and that the text before the comment, up to the blank line or comment before it, holds `figure` as it stands. Keys go
down by dots; `%` after a figure takes a share as percent, `/3600` after a key divides what stands there. A table has
one comment above it, which names the key of its rows and columns:

    <!-- table: tests/perf/results/x.json stages.{row} throughput ratio_to_plain seconds/3600 share_of_roofline% -->
    | stage | throughput | x plain | hours | of the roofline |

where `-` is a column that the comment says nothing of. Every results file says when, of which commit, and on what it
was measured: `date`, `commit` and `device`.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

_COMMENT = re.compile(r"<!-- (results|table): (\S+) (.*?) -->", re.DOTALL)
_FIGURE = re.compile(r"-?\d[\d,]*(?:\.\d+)?%?")
ABOUT = ("date", "commit", "device")  # what every results file says of itself


@dataclass(frozen=True)
class Problem:
    """A figure that is not what its results say."""

    line: int
    what: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}"


def check(document: str, root: Path) -> list[Problem]:
    """Whatever a document states otherwise than its results.

    Args:
        document: its text.
        root: where the files that it names lie.
    """
    problems = []
    for found in _COMMENT.finditer(document):
        line = document.count("\n", 0, found.start()) + 1
        problems += [Problem(line, what) for what in _problems(document, found, root)]
    return problems


def count(document: str) -> int:
    """How many comments there are."""
    return len(_COMMENT.findall(document))


def _problems(document: str, found: re.Match[str], root: Path) -> Iterator[str]:
    kind, name, words = found.groups()
    file = root / name
    if not file.is_file():
        yield f"there are no results {name}"
        return
    results = json.loads(file.read_text(encoding="utf-8"))
    missing = [word for word in ABOUT if not results.get(word)]
    if missing:
        yield f"{name} does not say its {', '.join(missing)}"
    try:
        if kind == "table":
            yield from _in_table(document[found.end() :], results, words.split())
        else:
            text = re.split(r"\n\s*\n|-->", document[: found.start()].rstrip())[-1]
            yield from _in_text(text, results, shlex.split(words))
    except (LookupError, TypeError, ValueError) as error:
        yield f"{name} has nothing like that ({error!r})"


def _in_text(text: str, results: Mapping[str, Any], pairs: list[str]) -> Iterator[str]:
    for pair in pairs:
        key, _, figure = pair.partition("=")
        if " ".join(figure.split()) not in " ".join(text.split()):
            yield f"the text before it does not say {figure} ({key})"
        yield from _same(figure, value_at(results, key), key)


def _in_table(text: str, results: Mapping[str, Any], words: list[str]) -> Iterator[str]:
    pattern, *columns = words
    rows = []
    for line in text.lstrip("\n").splitlines():
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    body = rows[2:]  # below the names and the rule
    if not body:
        yield "there is no table behind it"
    for name, *cells in body:
        if len(cells) != len(columns):
            yield f"row {name} has {len(cells)} figures, but the comment names {len(columns)} columns"
            continue
        values = value_at(results, pattern.replace("{row}", name))
        for cell, column in zip(cells, columns, strict=True):
            if column == "-":
                continue
            key = column.removesuffix("%")
            value = value_at(values, key) if key.partition("/")[0] in values else None
            figure = _FIGURE.search(cell)
            if value is None and figure is None:
                continue
            if value is None or figure is None:
                yield f"row {name} says {cell or 'nothing'!r} of {key}, which is {value}"
                continue
            if column.endswith("%") != figure[0].endswith("%"):
                yield f"row {name} says {figure[0]} of {key}, in another unit than the comment"
            yield from _same(figure[0], value, f"{name}.{key}")


def value_at(results: Any, key: str) -> Any:
    """What stands at a key such as `stages.imagination.throughput`, or `scores.0`.

    Raises:
        KeyError: if nothing does.
    """
    path, _, divisor = key.partition("/")
    for part in path.split("."):
        results = results[int(part)] if isinstance(results, list) else results[part]
    return results / float(divisor) if divisor else results


def _same(figure: str, value: Any, key: str) -> Iterator[str]:
    if isinstance(value, str):
        if value != figure:
            yield f"{key} is {value!r}, not {figure!r}"
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        yield f"{key} is no figure"
        return
    text = figure.replace(",", "")
    shown = Decimal(text.removesuffix("%"))
    exact = Decimal(repr(value)) * (100 if text.endswith("%") else 1)
    unit = Decimal(1).scaleb(int(shown.as_tuple().exponent))
    rounded = [exact.quantize(unit, rounding) for rounding in (ROUND_HALF_UP, ROUND_HALF_EVEN, ROUND_HALF_DOWN)]
    if shown not in rounded:
        yield f"{key} is {exact.normalize():f}, not {figure}"
