"""The comparison of a run's rounds with the benchmark's prediction."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from iris_cli.pipeline import execute
from iris_cli.plan import make_plan

SPEED = {"collect": 100.0, "tokenizer": 20.0, "tokenize": 1000.0, "dynamics": 40.0, "actor_critic": 10.0}
BENCH = {
    "stages": {name: {"throughput": value} for name, value in SPEED.items()},
    "device": "a machine", "torch": "2", "date": "2026-11-21", "predicted_hours": 4.0,
}  # fmt: skip


@pytest.fixture
def stretch(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("stretch", repository / "tests" / "perf" / "stretch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lines(seconds: dict[str, float], rounds: int = 4) -> list[dict[str, Any]]:
    found = []
    for number in range(1, rounds + 1):
        for stage, value in seconds.items():
            figures = {"updates": 200 * number, "steps": 200, "steps_in_all": 1000}
            slow = 100 * value if number == 1 else value  # kernels are chosen
            found.append({"event": "stage", "phase": "round", "round": number, "stage": stage, "seconds": slow,
                          "figures": figures})  # fmt: skip
    return found


def test_a_round_takes_what_its_stages_do_by_their_speed(stretch: ModuleType) -> None:
    seconds = {"collect": 2.0, "train-tokenizer": 10.0, "train-dynamics": 5.0 + 1.0, "train-actor-critic": 20.0}

    exact = stretch.compare(BENCH, lines(seconds))
    slower = stretch.compare(BENCH, lines({name: 1.2 * value for name, value in seconds.items()}))

    assert exact["ratio"] == pytest.approx(1)
    assert exact["rounds"] == 3
    assert exact["agrees"]
    assert slower["ratio"] == pytest.approx(1.2)
    assert not slower["agrees"]


def test_a_real_run_has_what_the_comparison_reads(
    stretch: ModuleType, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (repository / "tests" / "perf" / "stretch.yaml").read_text()
    small = text.replace("published", "tiny").replace("98000", "60").replace("rounds: 10", "rounds: 2")
    Path("p.yaml").write_text(small.replace("updates: 200", "updates: 2").replace("steps: 200", "steps: 20"))
    execute(make_plan(Path("p.yaml")), device="cpu")
    found = [json.loads(line) for line in Path("runs/stretch/metrics.jsonl").read_text().splitlines()]
    result = stretch.compare(BENCH, found)

    assert result["rounds"] == 1
    assert set(result["stages"]) == {"collect", "train-tokenizer", "train-dynamics", "train-actor-critic"}
    assert result["stages"]["train-dynamics"]["predicted"] == pytest.approx(2 / 40 + 100 / 1000)
    assert all(stage["measured"] > 0 for stage in result["stages"].values())
