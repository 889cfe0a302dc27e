"""Pictures hold the lines they were given, and what cannot be drawn is refused."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iris_cli.errors import ConfigError, IrisError, ShapeError
from iris_cli.plots import Curve, learning_curves, performance_profiles


def line(label: str, height: float = 0.5, **more: object) -> Curve:
    return Curve(label=label, x=[0, 100, 200], y=[0.0, height, height], **more)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture
def _matplotlib() -> None:
    pytest.importorskip("matplotlib")


@pytest.mark.usefixtures("_matplotlib")
def test_every_line_has_its_colour_and_its_name(tmp_path: Path) -> None:
    path = learning_curves(
        tmp_path / "new" / "curve.svg", [line("first"), line("second", 0.7)], title="Catch", x_label="steps",
        random=-0.75, threshold=0.95,
    )  # fmt: skip

    text = path.read_text()
    for words in ("Catch", "steps", "first", "second", "random play -0.75", "threshold 0.95"):
        assert f"<!-- {words} -->" in text, words
    assert "#0072b2" in text
    assert "#d55e00" in text


@pytest.mark.usefixtures("_matplotlib")
def test_marks_and_bands_are_drawn_where_asked_only(tmp_path: Path) -> None:
    def draw(name: str, curve: Curve, **marks: float) -> np.ndarray:
        return pixels(learning_curves(tmp_path / name, [curve], title="t", x_label="x", **marks))

    plain = draw("plain.png", line("a"))

    assert np.array_equal(plain, draw("again.png", line("a")))
    assert not np.array_equal(plain, draw("band.png", line("a", band=([-0.1, 0.4, 0.4], [0.1, 0.6, 0.6]))))
    assert not np.array_equal(plain, draw("threshold.png", line("a"), threshold=0.3))
    assert not np.array_equal(plain, draw("random.png", line("a"), random=0.3))


@pytest.mark.usefixtures("_matplotlib")
def test_a_profile_has_a_strong_line_in_black(tmp_path: Path) -> None:
    def draw(strong: bool) -> str:
        curve = Curve(label="yours", x=[0, 1, 2], y=[1.0, 0.5, 0.1], strong=strong)
        return performance_profiles(tmp_path / "profile.svg", [curve, line("IRIS")], title="Profiles").read_text()

    assert "stroke: #000000; stroke-width: 3" in draw(True)
    assert "stroke: #000000; stroke-width: 3" not in draw(False)


@pytest.mark.usefixtures("_matplotlib")
@pytest.mark.parametrize(("name", "curves", "error"), [("c.gif", [line("a")], ConfigError), ("c.png", [], ShapeError)])
def test_what_cannot_be_drawn_is_refused(
    tmp_path: Path, name: str, curves: list[Curve], error: type[Exception]
) -> None:
    with pytest.raises(error):
        learning_curves(tmp_path / name, curves, title="t", x_label="x")
    assert not list(tmp_path.iterdir())


def test_a_curve_needs_as_many_y_as_x() -> None:
    with pytest.raises(ShapeError, match="'a'"):
        Curve(label="a", x=[1, 2], y=[1])
    with pytest.raises(ShapeError):
        Curve(label="a", x=[], y=[])
    with pytest.raises(ShapeError):
        Curve(label="a", x=[1, 2], y=[1, 2], band=([0, 0, 0], [1, 1, 1]))


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    with pytest.raises(IrisError, match=r"need matplotlib.*pip install 'iris-wm\[plot\]'"):
        learning_curves(tmp_path / "c.png", [line("a")], title="t", x_label="x")
