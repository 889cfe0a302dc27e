"""How cost grows, at tiny size."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result

from iris_cli.errors import ConfigError
from iris_cli.stages import bench_scaling
from iris_cli.stages.bench import save
from iris_cli.stages.bench_scaling import report_of, scaling

SIZES = {
    "BATCH": 2, "HORIZON": 2, "BATCHES": (2, 4), "HORIZONS": (2, 4), "CONTEXTS": (1, 3, 5), "TOKENS": (1, 4, 500),
    "DATASETS": (500, 1000),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SIZES.items():
        monkeypatch.setattr(bench_scaling, name, value)


@pytest.mark.pipeline
def test_every_axis_has_a_throughput_at_each_value_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_scaling, "PATIENCE", 1e9)  # on a busy machine, too
    result = scaling(preset="tiny", seconds=0.1, device="cpu", plot=tmp_path / "scaling.png")

    axes = result["scaling"]
    assert {name: axis["values"] for name, axis in axes.items()} == {
        "batch": [2, 4], "horizon": [2, 4], "context": [1, 3], "tokens_per_frame": [1, 4], "dataset_steps": [500, 1000],
    }  # fmt: skip
    assert all(one > 0 for axis in axes.values() for one in axis["throughput"])
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
    path = save(result, tmp_path / "results")
    assert path.name.endswith("-tiny-scaling.json")
    assert json.loads(path.read_text()) == result
    report = report_of(result, path, tmp_path / "scaling.png")
    assert report.sections[0].columns == ("2", "4")
    assert report.files == {"result": path, "plot": tmp_path / "scaling.png"}
    assert not report.notes


def test_what_would_take_too_long_is_not_measured_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []

    def point(value: int) -> tuple[Callable[[], object], float]:
        return lambda: done.append(value), value

    timed = bench_scaling._Timed(1.0, torch.device("cpu"))
    monkeypatch.setattr(timed, "_once", lambda work: work() or done[-1] * 1.5)  # 1.5 seconds each

    grown = timed.along((1, 2, 4, 8, 3), point)
    assert grown == {"values": [1, 2, 4, 8, 3], "throughput": [0.6667, 0.6667, 0.6667, None, 0.6667]}
    assert 8 not in done
    assert None not in timed.along((1, 100), point, grows=False)["throughput"]

    axes: dict[str, Any] = {"batch": {"unit": "frames", "at": {}, **grown}}
    report = report_of({"scaling": axes}, None, None)
    assert report.sections[0].rows == ((0.6667, 0.6667, 0.6667, "-", 0.6667),)
    assert "too long" in report.notes[0]


def test_a_picture_that_cannot_be_drawn_is_said_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_scaling, "_Axes", lambda *arguments: pytest.fail("measured"))

    with pytest.raises(ConfigError, match=r"not '.txt'"):
        scaling(preset="tiny", plot=Path("scaling.txt"))
    with pytest.raises(ConfigError, match="unknown preset"):
        scaling(preset="tinny")


def test_the_command_knows_what_goes_together(command: Callable[..., Result]) -> None:
    assert "--plot goes with --scaling" in command("bench", "--plot", "a.png").stderr
    assert "iris alone" in command("bench", "--scaling", "--agent", "twm").stderr
