"""Charts: where things lie, and that odd numbers do no harm."""

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from iris_cli.errors import ShapeError
from iris_cli.html_report.charts import (
    COLOURS,
    POINTS,
    Interval,
    Line,
    heat_map,
    histogram,
    interval_chart,
    legend,
    line_chart,
)
from iris_cli.html_report.page import STYLE


def svg_of(chart: str) -> ET.Element:
    found = ET.fromstring(chart).find("svg")
    assert found is not None
    return found


def numbers_in(chart: str) -> list[float]:
    """Every coordinate of a picture."""
    words = re.findall(r' (?:x|y|x1|x2|y1|y2|cx|cy|r|width|height|points)="([^"]*)"', chart)
    return [float(number) for word in words for number in re.split(r"[ ,]", word) if number]


def path_of(chart: str) -> list[tuple[float, float]]:
    found = svg_of(chart).find("polyline")
    assert found is not None
    return [tuple(map(float, pair.split(","))) for pair in found.get("points", "").split()]  # type: ignore[misc]


def test_a_line_rises_where_its_values_do_and_lies_within_the_picture() -> None:
    chart = line_chart([Line(label="a", x=[0, 1, 2], y=[1.0, 5.0, 3.0])], title="t", x_label="steps")

    (x0, y0), (x1, y1), (x2, y2) = path_of(chart)

    assert x0 < x1 < x2
    assert y1 < y2 < y0  # downwards
    assert all(0 <= x <= 360 and 0 <= y <= 190 for x, y in path_of(chart))
    assert [t.text for t in svg_of(chart).iter("title")] == ["a: 1 at 0", "a: 5 at 1", "a: 3 at 2"]


def test_wide_ranges_of_positive_values_are_logarithmic() -> None:
    chart = line_chart([Line(label="a", x=[0, 1, 2], y=[1e-3, 1e-1, 1e1])], title="t")

    heights = [y for _, y in path_of(chart)]

    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)
    plain = path_of(line_chart([Line(label="a", x=[0, 1, 2], y=[1e-3, 1e-1, 1e1])], title="t", logarithmic=False))
    assert plain[0][1] - plain[1][1] < 2


def test_a_band_and_levels_are_part_of_the_range() -> None:
    line = Line(label="a", x=[0, 1], y=[1, 2], low=[-5, -5], high=[9, 9])

    chart = line_chart([line], title="t", levels=[("random", -20.0), ("human", 30.0)])

    assert all(math.isfinite(number) and -1 <= number <= 400 for number in numbers_in(chart))
    words = [text.text for text in svg_of(chart).iter("text")]
    assert {"random -20", "human 30"} <= set(words)


@pytest.mark.parametrize(
    "values",
    [[3.0], [3.0, 3.0], [0.0, 0.0], [1e300, -1e300], [1e-300, 2e-300], [float("nan"), 1.0, float("inf")], [-1e-9, 1e9]],
)
def test_odd_values_give_finite_pictures(values: list[float]) -> None:
    chart = line_chart([Line(label="a", x=list(range(len(values))), y=values)], title="t")

    assert all(math.isfinite(number) for number in numbers_in(chart))
    finite = [value for value in values if math.isfinite(value)]
    assert all(math.isfinite(number) for number in numbers_in(histogram(finite, title="t", x_label="x")))
    row = Interval("a", finite[0], min(finite), max(finite))
    assert all(math.isfinite(number) for number in numbers_in(interval_chart([row], title="t")))


def test_a_line_without_a_finite_value_says_so() -> None:
    assert "nothing to draw" in line_chart([Line(label="a", x=[0], y=[math.nan])], title="t")
    with pytest.raises(ShapeError):
        Line(label="a", x=[0], y=[])
    with pytest.raises(ShapeError):
        Line(label="a", x=[], y=[])


def test_many_points_are_averaged_to_as_many_as_can_be_seen() -> None:
    count = 10_000
    chart = line_chart([Line(label="a", x=list(range(count)), y=[i % 2 for i in range(count)])], title="t")

    assert POINTS / 2 <= len(path_of(chart)) <= POINTS
    assert len(chart) < 20_000


def test_intervals_stand_around_their_value_and_single_numbers_have_none() -> None:
    rows = [Interval("mine", 5, 4, 6, strong=True), Interval("theirs", 7)]

    picture = svg_of(interval_chart(rows, title="t", levels=[("human", 10)]))

    [whisker] = [line for line in picture.iter("line") if "whisker" in line.get("class", "")]
    first, second = (float(dot.get("cx", "nan")) for dot in picture.iter("circle"))
    assert float(whisker.get("x1", "nan")) < first < float(whisker.get("x2", "nan")) < second


def test_a_histogram_counts_everything_once() -> None:
    values = [0.0, 0.0, 1.0, 5.0, 10.0]

    picture = svg_of(histogram(values, title="t", x_label="score"))

    told = [int(title.text.split(" ")[0]) for title in picture.iter("title") if title.text]
    assert sum(told) == len(values)


def test_a_heat_map_is_darkest_where_the_share_is_largest() -> None:
    picture = svg_of(heat_map([[0.1, 0.4], [0.2, 0.3]], title="t", row_labels=["a", "b"], column_labels=["0", "1"]))

    shades = [float(cell.get("fill-opacity", "nan")) for cell in picture.iter("rect")]

    assert shades == [0.25, 1.0, 0.5, 0.75]


def test_every_class_of_a_chart_has_its_style() -> None:
    charts = (Path(__file__).parents[2] / "iris_cli" / "html_report" / "charts.py").read_text()
    for name in ("chart", "grid", "tick", "level", "line", "band", "point", "whisker", "heat", "bar", "legend", "key"):
        assert name in charts
        assert name == "tick" or f".{name}" in STYLE
    assert all(f".c{number}{{" in STYLE and f".b{number}{{" in STYLE for number in range(COLOURS))


def test_labels_from_files_are_escaped_and_one_needs_no_legend() -> None:
    words = "<script>"

    chart = line_chart([Line(label=words, x=[0], y=[1])], title=words, x_label=words, levels=[(words, 2)])

    assert words not in chart
    assert words not in interval_chart([Interval(words, 1)], title=words)
    assert words not in str(legend([words, words]))
    assert legend(["a"]) is None
