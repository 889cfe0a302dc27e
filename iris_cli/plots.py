"""Plots: learning curves, profiles and attention maps, as png, svg or pdf. The only file that knows matplotlib.

Numbers come in; no run, report or statistic is known here. matplotlib is an extra: `pip install 'iris-wm[plot]'`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from iris_cli.errors import ConfigError, IrisError, ShapeError
from iris_cli.files import replacing

SUFFIXES = (".png", ".svg", ".pdf")
SIZE = (7.2, 4.2)  # inches
DOTS_PER_INCH = 150
# Okabe & Ito 2008: told apart by colour-blind readers too. Lines beyond the eighth are dashed.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#B0A000", "#999999")
BLACK = "#000000"
STYLES = ("-", "--", ":", "-.")
INK = "#444444"


@dataclass(frozen=True, kw_only=True, eq=False)  # arrays do not compare as one
class Curve:
    """A line of a plot."""

    label: str
    x: ArrayLike  # (points,) ascending
    y: ArrayLike  # (points,)
    band: tuple[ArrayLike, ArrayLike] | None = None  # lower and upper edge, (points,) each
    strong: bool = False  # black and wide, to stand out among others

    def __post_init__(self) -> None:
        shapes = {np.shape(values) for values in (self.x, self.y, *(self.band or ()))}
        if len(shapes) > 1 or len(np.shape(self.x)) != 1 or not np.size(self.x):
            raise ShapeError(f"a curve needs as many y as x, but has {shapes}", where=f"curve '{self.label}'")


def check(path: Path) -> None:
    """Go on only if a picture can be drawn there.

    Raises:
        ConfigError: for another kind of file than a picture's.
        IrisError: without matplotlib.
    """
    _figure(path)


def learning_curves(
    path: Path,
    curves: Sequence[Curve],
    *,
    title: str,
    x_label: str,
    y_label: str = "mean score of an evaluation",
    random: float | None = None,
    threshold: float | None = None,
) -> Path:
    """Draw scores against steps or time, a line for each run.

    Args:
        path: .png, .svg or .pdf; replaced if it is there.
        curves: one per run, a dot per evaluation.
        title, x_label, y_label: words of the picture.
        random: score of random play, as a dotted line.
        threshold: score to reach, as a dashed line.

    Raises:
        ConfigError: for another kind of file.
        IrisError: without matplotlib.
        ShapeError: without curves.
    """
    figure, axes = _axes(path, curves, title, x_label, y_label)
    _draw(axes, curves, marker="o")
    for level, name, style in ((random, "random play", ":"), (threshold, "threshold", "--")):
        if level is not None:
            axes.axhline(level, color=INK, linestyle=style, linewidth=1, label=f"{name} {level:g}", zorder=1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.set_xlim(left=0)
    return _write(figure, axes, path)


def performance_profiles(path: Path, curves: Sequence[Curve], *, title: str) -> Path:
    """Draw which share of the runs scores above each human-normalised threshold.

    Raises:
        As `learning_curves`.
    """
    figure, axes = _axes(path, curves, title, "human-normalised score τ", "share of runs with score > τ")
    _draw(axes, curves, marker=None)
    axes.axvline(1, color=INK, linestyle=":", linewidth=1, zorder=1, label="human")
    axes.set_xlim(float(np.min(curves[0].x)), float(np.max(curves[0].x)))
    axes.set_ylim(0, 1.02)
    return _write(figure, axes, path)


@dataclass(frozen=True)
class Panel:
    """A small picture among others: y against x on a logarithmic axis."""

    x_label: str
    y_label: str
    curve: Curve


def growth(path: Path, panels: Sequence[Panel], *, title: str) -> Path:
    """Draw panels in two columns; each curve's label stands above it, and its y axis begins at 0.

    Raises:
        As `learning_curves`.
    """
    figure = _figure(path)
    if not panels:
        raise ShapeError("there are no curves to draw", where=path)
    rows = -(-len(panels) // 2)
    figure.set_size_inches(SIZE[0] * 1.2, 2.6 * rows)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(rows, 2, index + 1)
        _dress(axes, panel.curve.label, panel.x_label, panel.y_label)
        axes.title.set_fontsize(9)
        axes.yaxis.label.set_fontsize(8)
        _draw(axes, [panel.curve], marker="o")
        axes.set_xscale("log", base=2 if np.max(panel.curve.x) < 5000 else 10)
        axes.set_xticks(panel.curve.x, labels=[f"{value:,g}" for value in np.asarray(panel.curve.x)], minor=False)
        axes.set_xticks([], minor=True)
        axes.set_ylim(0, 1.12 * float(np.max(panel.curve.y)))
    return _save(figure, path)


def attention_map(path: Path, weights: ArrayLike, kinds: Sequence[str], *, title: str, predictions: int) -> Path:
    """Draw attention by kind of token and steps ago, the mean over layers, and beside it each layer's by kind.

    Args:
        path: .png, .svg or .pdf; replaced if it is there.
        weights: (layers, kinds, S), of the present step, the one before, ...; those of a layer sum up to 1.
        kinds: names.
        title: of the picture.
        predictions: how many the weights are the mean of.

    Raises:
        ConfigError: for another kind of file.
        IrisError: without matplotlib.
        ShapeError: if weights and kinds do not agree.
    """
    values = np.asarray(weights)
    if values.ndim != 3 or values.shape[1] != len(kinds) or not values.size:
        raise ShapeError(f"weights must have shape (layers, {len(kinds)}, S). Got {values.shape}")
    figure = _figure(path)
    layers, _, span = values.shape
    over_time, by_layer = figure.subplots(1, 2, width_ratios=(3, 1))
    figure.suptitle(f"{title}: mean attention of {predictions:,} predictions", x=0.01, ha="left", fontsize=11)
    maps = (
        (over_time, values.mean(0)[:, ::-1], "steps ago", "mean over layers"),
        (by_layer, values.sum(2).T, "layer", "all steps"),
    )
    for axes, shares, x_label, name in maps:
        shown = axes.imshow(shares, aspect="auto", cmap="viridis", vmin=0)
        axes.set_title(name, loc="left", fontsize=9)
        axes.set_yticks(range(len(kinds)), kinds)
        axes.set_xlabel(x_label)
        figure.colorbar(shown, ax=axes, format="{x:.0%}", location="bottom", fraction=0.06)
    ago = np.unique(np.linspace(0, span - 1, min(span, 9)).round().astype(int))
    over_time.set_xticks(span - 1 - ago, ago)
    shown_layers = np.unique(np.linspace(0, layers - 1, min(layers, 5)).round().astype(int))
    by_layer.set_xticks(shown_layers, shown_layers + 1)
    return _save(figure, path)


def _figure(path: Path) -> Any:
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"a plot is {', '.join(SUFFIXES)}, not '{path.suffix}'", where=path)
    try:  # here, because it is an extra, and slow to import
        from matplotlib.figure import Figure
    except ImportError:
        raise IrisError("plots need matplotlib", fix="Install it: pip install 'iris-wm[plot]'") from None
    return Figure(figsize=SIZE, dpi=DOTS_PER_INCH, layout="constrained")


def _axes(path: Path, curves: Sequence[Curve], title: str, x_label: str, y_label: str) -> tuple[Any, Any]:
    figure = _figure(path)
    if not curves:
        raise ShapeError("there are no curves to draw", where=path)
    axes = figure.add_subplot()
    _dress(axes, title, x_label, y_label)
    return figure, axes


def _dress(axes: Any, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw(axes: Any, curves: Sequence[Curve], *, marker: str | None) -> None:
    plain = [curve for curve in curves if not curve.strong]
    for curve in curves:
        index = 0 if curve.strong else plain.index(curve)
        colour = BLACK if curve.strong else COLOURS[index % len(COLOURS)]
        style = STYLES[index // len(COLOURS) % len(STYLES)]
        axes.plot(
            curve.x, curve.y, color=colour, linestyle=style, linewidth=3 if curve.strong else 2, marker=marker,
            markersize=3.5, label=curve.label, zorder=3,
        )  # fmt: skip
        if curve.band is not None:
            axes.fill_between(curve.x, *curve.band, color=colour, alpha=0.15, linewidth=0, zorder=2)


def _write(figure: Any, axes: Any, path: Path) -> Path:
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)  # beside, so it hides nothing
    return _save(figure, path)


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        figure.savefig(draft)
    return path
