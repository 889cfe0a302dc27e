"""`--profile`: a trace of what a command spent its time on."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result

from iris_cli.cli import cli
from iris_cli.errors import ConfigError
from iris_cli.profiling import profiled

Command = Callable[..., Result]
STAGES = (
    "collect", "train-tokenizer", "tokenize", "train-dynamics", "train-actor-critic", "train-agent", "evaluate",
    "diagnose", "imagine", "run",
)  # fmt: skip


def operators(path: Path) -> set[str]:
    return {event["name"] for event in json.loads(path.read_text())["traceEvents"] if "name" in event}


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_can_be_profiled(name: str) -> None:
    assert "profile" in {parameter.name for parameter in cli.commands[name].params}


def test_the_trace_of_a_training_names_its_operators(command: Command, workplace: Path) -> None:
    result = command(
        "train-dynamics", "data/pong.zarr", "--run", "runs/pong", "--updates", 2, "--profile", "trace.json"
    )

    assert result.exit_code == 0, result.output
    assert "the trace is in trace.json" in result.stderr
    assert {"aten::addmm", "aten::embedding", "autograd::engine::evaluate_function: AddmmBackward0"} <= operators(
        Path("trace.json")
    )


def test_a_trace_is_written_of_work_that_failed_too(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), profiled(tmp_path / "trace.json"):
        raise ZeroDivisionError(torch.ones(3).cumsum(0))

    assert "aten::cumsum" in operators(tmp_path / "trace.json")
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]


def test_a_trace_can_be_compressed(tmp_path: Path) -> None:
    with profiled(tmp_path / "trace.json.gz"):
        torch.ones(3).cumsum(0)

    assert "aten::cumsum" in gzip.decompress((tmp_path / "trace.json.gz").read_bytes()).decode()


@pytest.mark.parametrize("name", ["none/trace.json", "folder.json", "trace.txt", ".json"])
def test_what_cannot_be_written_is_said_before_any_work(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.json").mkdir()
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(ConfigError, match=r"trace (cannot be written|ends in)"), profiled(tmp_path / name):
        pytest.fail("the work began")

    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_says_so_in_one_line(command: Command, workplace: Path) -> None:
    before = sorted(Path("runs").rglob("*"))

    result = command("train-dynamics", "data/pong.zarr", "--updates", 2, "--profile", "none/trace.json")

    assert result.exit_code == 1
    assert "Error: the trace cannot be written (No such file or directory). In none/trace.json." in result.stderr
    assert sorted(Path("runs").rglob("*")) == before


@pytest.mark.pipeline
def test_a_pipeline_can_be_profiled(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    Path("p.yaml").write_text(
        "{preset: tiny, game: 'toy_game:Toy', dataset: data/p.zarr, run: runs/p, rounds: 1, round: ["
        "collect: {steps: 40}, train-tokenizer: {updates: 2}, train-dynamics: {updates: 2}, "
        "train-actor-critic: {updates: 2}]}"
    )

    result = command("run", "p.yaml", "--profile", "trace.json")

    assert result.exit_code == 0, result.output
    assert {"aten::conv2d", "aten::scaled_dot_product_attention", "aten::lstm_cell"} <= operators(Path("trace.json"))
