"""Everything a person sees in the terminal. The only file that prints, and the only one that knows rich."""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import NoReturn

from rich import markup
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from iris_cli.aliases import named
from iris_cli.report import Report

PLAIN_SECONDS = 15.0  # between two progress lines where the output is no terminal
LINE_FIGURES = 4  # of a report, in a pipeline's one line per stage

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # what steers a terminal, or is no text at all

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def hushed(wanted: bool) -> Iterator[None]:
    """Within it, if wanted, nothing but an error is printed: another process tells the rest."""
    _out.quiet = _err.quiet = wanted
    try:
        yield
    finally:
        _out.quiet = _err.quiet = False


def escape(text: str) -> str:
    """Text as it is, whoever wrote it: no markup, and no control characters, which might move the cursor or worse."""
    return markup.escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text))


def say(text: str) -> None:
    """One line for the user."""
    _out.print(escape(named(text)))


def warn(text: str) -> None:
    """One line the user should not miss, on stderr."""
    _err.print(f"[yellow]Note:[/yellow] {escape(named(text))}")


def error(text: str) -> None:
    """The one line a failed command ends with, on stderr."""
    _err.quiet = False
    _err.print(f"[red]Error:[/red] {escape(named(text))}")


def show(report: Report) -> None:
    """A stage's tables or figures, files and notes."""
    for section in report.sections:
        grid(section.title, list(section.columns), [list(row) for row in section.rows])
        _out.print()
    if report.figures and not report.sections:
        table = Table(title=escape(report.stage), title_justify="left", show_header=False, box=None, pad_edge=False)
        table.add_column(style="cyan")
        table.add_column(overflow="fold")
        for name, value in report.figures.items():
            words = name.replace("_", " ") if name.isidentifier() else name  # a path stays as it is
            table.add_row(escape(words), escape(number(value)))
        _out.print(table)
    for name, path in report.files.items():
        _out.print(f"[green]{escape(name)}[/green] {escape(named(str(path)))}")
    for note in report.notes:
        warn(note)


def line(report: Report, *, prefix: str, seconds: float) -> None:
    """A stage of a pipeline in one line."""
    shown = list(report.figures.items())[:LINE_FIGURES]
    figures = "  ".join(f"{name.replace('_', ' ')} {number(value)}" for name, value in shown)
    files = "  ".join(str(path) for path in report.files.values() if path.suffix)
    _out.print(
        f"[cyan]{escape(prefix)}[/cyan] {report.stage:<18} {escape(figures)}  "
        f"[dim]{seconds:.1f} s[/dim]  [green]{escape(named(files))}[/green]".rstrip()
    )


def table(title: str, rows: Mapping[str, object]) -> None:
    """Names and values."""
    show(Report(stage=title, figures={name: _plain(value) for name, value in rows.items()}))


def facts(title: str, values: Mapping[str, object], *, as_json: bool) -> None:
    """Names and values, as a table or as JSON."""
    if as_json:
        sys.stdout.write(named(json.dumps(values, indent=1)) + "\n")
    else:
        table(title, values)


def document(path: Path) -> None:
    """A file of text as it is, for other programs."""
    sys.stdout.write(path.read_text(encoding="utf-8"))


def text(content: str) -> None:
    """Text as it is, for other programs."""
    sys.stdout.write(content)


def grid(title: str, columns: list[str], rows: list[list[object]]) -> None:
    """A table with a header; without columns only its title."""
    _out.print(_drawn(title, columns, rows))


def _drawn(title: str, columns: list[str], rows: list[list[object]]) -> Table | str:
    if not columns:
        return escape(named(title))
    drawn = Table(title=escape(named(title)), title_justify="left", box=None, pad_edge=False, show_header=any(columns))
    for index, column in enumerate(columns):
        drawn.add_column(escape(column), style="cyan" if index == 0 else None, no_wrap=index == 0)  # names stay whole
    for row in rows:
        drawn.add_row(*(escape(number(_plain(value))) for value in row))
    return drawn


def width() -> int:
    """Of the terminal, in characters."""
    return _out.width


def follow(look: Callable[[], tuple[Report, bool]], *, stop: Callable[[], bool], seconds: float = 1.0) -> None:
    """Show a report that changes, until it is the last one or a stop is asked for.

    Args:
        look: the report as it is now, and whether it is the last one.
        stop: looked at several times a second.
        seconds: between two looks; at least 15 where the output is no terminal and each report is printed anew.
    """
    report, over = look()
    if not _out.is_terminal:
        show(report)
        while not over and not _waited(max(seconds, PLAIN_SECONDS), stop):
            report, over = look()
            show(report)
        return
    with Live(_picture(report), console=_out, auto_refresh=False) as live:
        while not over and not _waited(seconds, stop):
            report, over = look()
            live.update(_picture(report), refresh=True)


@contextmanager
def live() -> Iterator[Callable[[Callable[[], Report]], None]]:
    """Hands out what draws a report in place of the one before; where the output is no terminal, it does not even look.

    Lines that are said meanwhile stand above it. At the end it goes.
    """
    if not _out.is_terminal:
        yield lambda look: None
        return
    with Live(console=_out, auto_refresh=False, transient=True) as drawn:
        yield lambda look: drawn.update(_picture(look()), refresh=True)


def _picture(report: Report) -> Group:
    """The tables of a report, one below the other."""
    parts = [_drawn(s.title, list(s.columns), [list(row) for row in s.rows]) for s in report.sections]
    return Group(*(line for part in parts for line in (part, Text())))


def _waited(seconds: float, stop: Callable[[], bool]) -> bool:
    """Wait; whether a stop was asked for meanwhile."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stop():
        time.sleep(0.1)
    return stop()


@contextmanager
def standard_output_for_programs(wanted: bool) -> Iterator[None]:
    """Within it, if wanted, people read on stderr, and standard output is left to JSON."""
    _out.stderr = wanted
    try:
        yield
    finally:
        _out.stderr = False


def number(value: float | int | str) -> str:
    """A number as a person writes it: thousands apart, four digits that matter."""
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.3g}"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def bar(share: float, *, width: int = 24) -> str:
    """`━━━━━━────── 50 %`, for a share in [0, 1]."""
    filled = round(min(max(share, 0.0), 1.0) * width)
    return f"{'━' * filled}{'─' * (width - filled)} {share:.0%}".replace("%", " %")


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`, `4.2 days`."""
    for limit, unit, size in ((90, "s", 1), (90 * 60, "min", 60), (48 * 3600, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}" if unit != "h" else f"{seconds / size:.1f} h"
    return f"{seconds / 86400:.1f} days"


def leave(code: int) -> NoReturn:
    """End the process at once, with everything printed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Bar:
    """Progress of one stage. `advance` is cheap enough for every step."""

    def __init__(self, title: str, total: int, unit: str, done: int) -> None:
        self._title, self._total, self._unit = title, total, unit
        self.done = self._begun = done
        self._words = ""
        self._started = self._printed = time.monotonic()
        self._progress: Progress | None = None
        if _out.is_terminal:
            self._progress = Progress(
                TextColumn("[cyan]{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
                TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[words]}"),
                console=_out, transient=True, refresh_per_second=4,
            )  # fmt: skip
            self._task = self._progress.add_task(title, total=total, completed=done, words="")
            self._progress.start()

    def advance(self, amount: int = 1, words: str | None = None) -> None:
        """Move on by `amount` units; `words` says how it goes (rates, scores, losses)."""
        self.done += amount
        self._words = self._words if words is None else words
        if self._progress is not None:
            self._progress.update(
                self._task, completed=self.done, words=f"{escape(self._rate())}  {escape(self._words)}"
            )
        elif time.monotonic() - self._printed > PLAIN_SECONDS:
            self._printed = time.monotonic()
            left = (self._total - self.done) / max(self.per_second, 1e-9)
            say(
                f"{self._title}: {self.done:,} of {self._total:,} {self._unit}, {self._rate()}, "
                f"{duration(left)} left  {self._words}".rstrip()
            )

    @property
    def per_second(self) -> float:
        """Units per second since the start."""
        return (self.done - self._begun) / max(time.monotonic() - self._started, 1e-9)

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _rate(self) -> str:
        return f"{self.per_second:,.3g} {self._unit}/s"


@contextmanager
def progress(title: str, total: int, unit: str, *, done: int = 0) -> Iterator[Bar]:
    """A progress bar on a terminal; elsewhere a line now and then."""
    bar = Bar(title, total, unit, done)
    try:
        yield bar
    finally:
        bar.close()


@contextmanager
def downloads() -> Iterator[Callable[[str, int, int | None], None]]:
    """Hands out what shows the bytes of one file after another: (name, bytes so far, bytes in all where known)."""
    bars: dict[str, Bar] = {}
    megabyte = 1 << 20

    def show_bytes(name: str, done: int, total: int | None) -> None:
        bar = bars.get(name)
        if bar is None:
            for other in bars.values():
                other.close()
            bar = bars[name] = Bar(name, (total or 0) // megabyte, "MB", 0)
        bar.advance(done // megabyte - bar.done)

    try:
        yield show_bytes
    finally:
        for bar in bars.values():
            bar.close()


def _plain(value: object) -> float | int | str:
    if isinstance(value, str):
        return named(value)
    if isinstance(value, int | float):
        return value
    if isinstance(value, PurePath):
        return named(str(value))
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {number(_plain(item))}" for key, item in value.items()) or "-"
    return "-" if value is None else str(value)
