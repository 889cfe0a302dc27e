"""Charts as inline SVG: lines, intervals, heat maps. Colours are classes of the page's style sheet.

A chart is drawn 360 or more units wide and shown at about that many pixels, so that its text stays readable.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from iris_cli.errors import ShapeError
from iris_cli.html_report.markup import Html, tag

COLOURS = 8  # classes c0 to c7; lines beyond the eighth are dashed
POINTS = 240  # most that a line is drawn with; more are averaged in groups
DOTS = 40  # most points that get a dot with a value each


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a chart."""

    label: str
    x: Sequence[float]  # ascending
    y: Sequence[float]
    low: Sequence[float] | None = None  # with `high`: edges of a band
    high: Sequence[float] | None = None
    colour: int = 0  # its number
    faint: bool = False  # thin, without dots
    dots: bool = True  # with a value each, where they are few

    def __post_init__(self) -> None:
        if len({len(v) for v in (self.x, self.y, self.low, self.high) if v is not None}) > 1 or not len(self.x):
            raise ShapeError("a line needs as many y as x", where=f"line '{self.label}'")


@dataclass(frozen=True)
class Interval:
    """A value and how sure it is."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    strong: bool = False
    note: str = ""


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str = "",
    levels: Sequence[tuple[str, float]] = (),
    width: int = 360,
    height: int = 190,
    logarithmic: bool | None = None,
) -> Html:
    """Lines over a common axis.

    Args:
        lines: at least one; values that are not finite are passed over.
        title: above the chart, and its name for those who do not see it.
        x_label: below it.
        levels: (name, y) of dotted lines across.
        width, height: in units, about pixels.
        logarithmic: the y axis; None: where all is positive and spans more than a factor of 50.
    """
    lines = [_finite(line) for line in lines]
    ys = [y for line in lines for values in (line.y, line.low or (), line.high or ()) for y in values]
    ys += [level for _, level in levels]
    xs = [x for line in lines for x in line.x]
    if not xs:
        return tag("p", f"{title}: nothing to draw.", class_="note")
    log = min(ys) > 0 and max(ys) / min(ys) > 50 if logarithmic is None else logarithmic and min(ys) > 0
    y_ticks = _log_ticks(min(ys), max(ys)) if log else _ticks(min(ys), max(ys), 4)
    x_ticks = _ticks(min(xs), max(xs), 4)
    y_range = (min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys)))
    place = _Place(width, height, (min(xs), max(xs)), y_range, log=log, y_ticks=y_ticks)
    marks = [_level(place, name, level) for name, level in levels]
    drawn = [part for line in lines for part in _line(place, line)]
    return _chart(
        title, width, height, *_axes(place, x_ticks, y_ticks, x_label), *marks, *drawn,
        words=f"{title}. " + "; ".join(f"{line.label}: last {_number(line.y[-1])}" for line in lines if line.y),
    )  # fmt: skip


def interval_chart(
    rows: Sequence[Interval], *, title: str, levels: Sequence[tuple[str, float]] = (), width: int = 400
) -> Html:
    """A row for each value: a dot, and a line from low to high."""
    left, top, step = 104, 34, 18
    values = [v for row in rows for v in (row.value, row.low, row.high) if v is not None] + [v for _, v in levels]
    ticks = _ticks(min(values), max(values), 5)
    low, high = min(ticks[0], min(values)), max(ticks[-1], max(values))
    height = top + step * len(rows) + 22

    def place(value: float) -> float:
        return round(left + (value - low) / (high - low or 1) * (width - left - 18), 1)

    bottom = top + step * len(rows)
    parts = []
    for tick in ticks:
        parts.append(tag("line", x1=place(tick), x2=place(tick), y1=top - 4, y2=bottom, class_="grid"))
        parts.append(tag("text", _number(tick), x=place(tick), y=bottom + 14, class_="tick", text_anchor="middle"))
    for index, (name, level) in enumerate(levels):
        parts.append(tag("line", x1=place(level), x2=place(level), y1=top - 6, y2=bottom, class_="level"))
        anchor = "end" if place(level) > width - 60 else "start" if place(level) < left + 30 else "middle"
        y = top - 10 if len(levels) == 1 or index % 2 else top - 22
        parts.append(tag("text", f"{name} {_number(level)}", x=place(level), y=y, class_="tick", text_anchor=anchor))
    for index, row in enumerate(rows):
        middle, kind = top + step * (index + 0.5), "strong" if row.strong else "dot"
        parts.append(
            tag("text", _short(row.label, 17), x=left - 8, y=middle + 4, class_=f"row {kind}", text_anchor="end")
        )
        if row.low is not None and row.high is not None:
            parts.append(
                tag("line", x1=place(row.low), x2=place(row.high), y1=middle, y2=middle, class_=f"whisker {kind}")
            )
        told = f"{row.label}: {_number(row.value)}" + (
            "" if row.low is None or row.high is None else f" ({_number(row.low)} to {_number(row.high)})"
        )
        words = tag("title", told + (f", {row.note}" if row.note else ""))
        parts.append(
            tag("circle", words, cx=place(row.value), cy=middle, r=4 if row.strong else 3, class_=f"point {kind}")
        )
    return _chart(title, width, height, *parts, words=title)


def histogram(values: Sequence[float], *, title: str, x_label: str, bins: int = 24, width: int = 400) -> Html:
    """How many values lie where."""
    low, high = min(values), max(values)
    ticks = _ticks(low, high, 5)
    size = (ticks[-1] - ticks[0]) / bins
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value - ticks[0]) / size))] += 1
    y_ticks = [tick for tick in _ticks(0, max(counts), 4) if tick == int(tick)]
    place = _Place(width, 220, (ticks[0], ticks[-1]), (0, y_ticks[-1]), log=False, y_ticks=y_ticks)
    bars = []
    for index, count in enumerate(counts):
        start, stop = ticks[0] + index * size, ticks[0] + (index + 1) * size
        words = tag("title", f"{count} from {_number(start)} to {_number(stop)}")
        wide = round(place.x(stop) - place.x(start) - 1, 1)
        if count:
            bars.append(
                tag(
                    "rect", words, x=place.x(start), y=place.y(count), width=wide,
                    height=round(place.bottom - place.y(count), 1), class_="bar",
                )
            )  # fmt: skip
    return _chart(title, width, 220, *_axes(place, ticks, y_ticks, x_label), *bars, words=title)


def heat_map(
    rows: Sequence[Sequence[float]], *, title: str, row_labels: Sequence[str], column_labels: Sequence[str],
    width: int = 360,
) -> Html:  # fmt: skip
    """Shares in [0, 1] as cells, the largest one darkest."""
    left, top, step = 84, 8, 22
    columns = len(column_labels)
    cell, most = (width - left - 6) / columns, max((value for row in rows for value in row), default=1.0) or 1.0
    parts = []
    for y, (label, row) in enumerate(zip(row_labels, rows, strict=True)):
        parts.append(
            tag("text", _short(label, 13), x=left - 6, y=top + step * y + 15, class_="tick", text_anchor="end")
        )
        for x, value in enumerate(row):
            words = tag("title", f"{label}, {column_labels[x]}: {value:.1%}")
            parts.append(
                tag(
                    "rect", words, x=round(left + cell * x, 1), y=top + step * y, width=round(cell - 1, 1),
                    height=step - 1, class_="heat", fill_opacity=round(value / most, 3),
                )
            )  # fmt: skip
    every = math.ceil(columns / 10)
    for x in range(0, columns, every):
        parts.append(
            tag(
                "text", column_labels[x], x=round(left + cell * (x + 0.5), 1), y=top + step * len(rows) + 14,
                class_="tick", text_anchor="middle",
            )
        )  # fmt: skip
    return _chart(title, width, top + step * len(rows) + 22, *parts, words=title)


def legend(labels: Sequence[str]) -> Html | None:
    """Which colour is whose; None for a single one."""
    if len(labels) < 2:
        return None
    return tag(
        "p", *(tag("span", tag("i", class_=f"key b{i % COLOURS}"), label) for i, label in enumerate(labels)),
        class_="legend",
    )  # fmt: skip


class _Place:
    """Where values lie in a chart."""

    def __init__(
        self, width: int, height: int, x_range: tuple[float, float], y_range: tuple[float, float], *, log: bool,
        y_ticks: Sequence[float],
    ) -> None:  # fmt: skip
        longest = max(len(_number(tick)) for tick in y_ticks)
        self.left, self.right, self.top, self.bottom = 14 + 6.6 * longest, width - 12, 10, height - 34
        self._x, self._log = x_range, log
        self._y = (math.log(y_range[0]), math.log(y_range[1])) if log else y_range

    def x(self, value: float) -> float:
        low, high = self._x
        return round(self.left + (value - low) / (high - low or 1) * (self.right - self.left), 1)

    def y(self, value: float) -> float:
        low, high = self._y
        share = ((math.log(value) if self._log else value) - low) / (high - low or 1)
        return round(self.bottom - share * (self.bottom - self.top), 1)


def _chart(title: str, width: int, height: float, *parts: Html, words: str) -> Html:
    picture = tag("svg", *parts, viewBox=f"0 0 {width} {height:g}", role="img", aria_label=words)
    return tag("figure", tag("figcaption", title), picture, class_="chart", style=f"--w:{width}px")


def _axes(place: _Place, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str) -> list[Html]:
    parts = []
    for tick in y_ticks:
        y = place.y(tick)
        parts.append(tag("line", x1=place.left, x2=place.right, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", _number(tick), x=place.left - 6, y=y + 4, class_="tick", text_anchor="end"))
    for tick in x_ticks:
        x = place.x(tick)
        if place.left - 1 <= x <= place.right + 1:
            anchor = "end" if x > place.right - 14 else "middle"
            parts.append(tag("text", _number(tick), x=x, y=place.bottom + 15, class_="tick", text_anchor=anchor))
    middle = round((place.left + place.right) / 2, 1)
    parts.append(tag("text", x_label, x=middle, y=place.bottom + 30, class_="tick", text_anchor="middle"))
    return parts


def _level(place: _Place, name: str, value: float) -> Html:
    y = place.y(value)
    line = tag("line", x1=place.left, x2=place.right, y1=y, y2=y, class_="level")
    below = y < place.top + 14
    words = tag(
        "text", f"{name} {_number(value)}", x=place.right, y=y + 13 if below else y - 4, class_="tick",
        text_anchor="end",
    )  # fmt: skip
    return tag("g", line, words)


def _line(place: _Place, line: Line) -> list[Html]:
    if not line.x:
        return []
    colour, dashes = f"c{line.colour % COLOURS}", "5 3" if line.colour >= COLOURS else None
    parts = []
    if line.low is not None and line.high is not None:
        edge = [*zip(line.x, line.high, strict=True), *reversed([*zip(line.x, line.low, strict=True)])]
        parts.append(tag("polygon", points=_path(place, edge), class_=f"band {colour}"))
    points = list(zip(line.x, line.y, strict=True))
    if len(points) > 1:
        thin = " faint" if line.faint else ""
        parts.append(
            tag("polyline", points=_path(place, points), class_=f"line {colour}{thin}", stroke_dasharray=dashes)
        )
    if len(points) <= (DOTS if line.dots and not line.faint else 1):
        parts += [
            tag(
                "circle", tag("title", f"{line.label}: {_number(y)} at {_number(x)}"), cx=place.x(x), cy=place.y(y),
                r=3, class_=f"point {colour}",
            )
            for x, y in points
        ]  # fmt: skip
    return parts


def _path(place: _Place, points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{place.x(x):g},{place.y(y):g}" for x, y in points)


def _finite(line: Line) -> Line:
    """The line without what is not finite, and averaged where it has more points than can be seen."""
    columns = [line.x, line.y, *((line.low, line.high) if line.low is not None and line.high is not None else ())]
    rows = [row for row in zip(*columns, strict=True) if all(math.isfinite(value) for value in row)]
    size = math.ceil(len(rows) / POINTS) or 1
    groups = [rows[start : start + size] for start in range(0, len(rows), size)]
    means = [tuple(sum(values) / len(group) for values in zip(*group, strict=True)) for group in groups]
    parts: list[list[float]] = [list(values) for values in zip(*means, strict=True)] or [[] for _ in columns]
    low, high = (parts[2], parts[3]) if len(parts) == 4 else (None, None)
    made = object.__new__(Line)  # may be empty, which a line that is given may not
    for name, value in (
        ("label", line.label), ("x", parts[0]), ("y", parts[1]), ("low", low), ("high", high),
        ("colour", line.colour), ("faint", line.faint), ("dots", line.dots),
    ):  # fmt: skip
        object.__setattr__(made, name, value)
    return made


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers that span the range, about `count` of them."""
    if low == high:
        low, high = (low - abs(low) * 0.1 - 1e-9, high + abs(high) * 0.1 + 1e-9) if low else (0.0, 1.0)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((factor * power for factor in (1, 2, 2.5, 5) if factor * power >= rough), 10 * power)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten that span the range, not more than six."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = math.ceil((last - first) / 5) or 1
    return [10.0**power for power in range(first, last + every, every)]


def _number(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.4g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.4g}k"
    return f"{value:.0e}".replace("e-0", "e-") if abs(value) < 1e-3 else f"{value:.4g}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
