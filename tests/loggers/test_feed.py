"""What loggers get: all that a checkpoint knows of, in order, and nothing twice, whatever was killed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result

from iris_cli.agents import presets_for
from iris_cli.envs.spec import training_spec
from iris_cli.errors import ConfigError
from iris_cli.loggers.feed import Feed
from iris_cli.loggers.records import Counters, Origin, Record, records_of
from iris_cli.run import Run

Command = Callable[..., Result]
ORIGIN = Origin(name="pong", id="0123456789abcdef" * 2, settings={"seed": 0})
PIPELINE = """
preset: tiny
game: "toy_game:Toy"
dataset: data/p.zarr
run: runs/p
log: tensorboard
rounds: 2
round:
  - collect: {steps: 12}
  - train-tokenizer: {updates: 2}
then:
  - evaluate: {episodes: 2}
"""


class Kept:
    """A logger that keeps what it gets, or fails from some record on."""

    def __init__(self, fails: bool = False) -> None:
        self.records: list[Record] = []
        self.fails, self.is_closed = fails, False

    def write(self, records: list[Record]) -> None:
        if self.fails:
            raise RuntimeError("no route\nto anywhere")
        self.records += records

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run.create(
        tmp_path / "run", agent="iris", config=presets_for("iris")["tiny"], environment=training_spec("Pong"),
        num_actions=6, dataset=tmp_path / "none.zarr", seed=0, device=torch.device("cpu"),
    )  # fmt: skip
    yield made
    made.close()


def attached(run: Run, kept: Kept, warn: Callable[[str], None] = lambda words: None) -> Kept:
    feed = Feed(run.directory, "kept", ORIGIN, warn=warn, begin=lambda directory, origin: kept)
    run.listeners.append(feed)
    return kept


def steps_of(kept: Kept) -> list[int]:
    return [record.step for record in kept.records]


def test_points_come_with_the_checkpoint(run: Run) -> None:
    kept = attached(run, Kept())

    run.log(stage="train-dynamics", update=50, loss=1.0)
    assert kept.records == []
    run.save()

    [record] = kept.records
    assert (record.number, record.stage, record.step, record.values) == (0, "train-dynamics", 50, {"loss": 1.0})
    run.save()
    assert len(kept.records) == 1
    run.close()
    assert kept.is_closed


def test_what_a_kill_takes_back_was_never_fed_so_nothing_comes_twice(run: Run) -> None:
    first = attached(run, Kept())
    run.log(stage="train-dynamics", update=50, loss=1.0)
    run.save()
    run.log(stage="train-dynamics", update=100, loss=0.5)  # after the last checkpoint
    run.close()  # as a kill would, without saving

    again = Run.open(run.directory, device=torch.device("cpu"), training=True)
    second = attached(again, Kept())
    again.log(stage="train-dynamics", update=100, loss=0.5)
    again.log(stage="train-dynamics", update=150, loss=0.4)
    again.save()
    again.close()

    assert steps_of(first) + steps_of(second) == [50, 100, 150]
    assert [record.number for record in first.records + second.records] == [0, 1, 2]


def test_a_checkpoint_right_after_lines_were_taken_back_knows_the_length_of_the_file(run: Run) -> None:
    run.log(stage="train-dynamics", update=50, loss=1.0)
    run.save()
    run.log(stage="train-dynamics", update=100, loss=0.5)
    run.close()

    again = Run.open(run.directory, device=torch.device("cpu"), training=True)
    kept = attached(again, Kept())
    for update in (100, 150, 200):
        again.log(stage="train-dynamics", update=update, loss=0.5)
        saved = json.loads((again.save() / "state.json").read_text())
        assert saved["metrics_bytes"] == (run.directory / "metrics.jsonl").stat().st_size
    again.close()

    assert steps_of(kept) == [50, 100, 150, 200]


def test_a_logger_that_comes_late_gets_everything(run: Run) -> None:
    for update in (50, 100):
        run.log(stage="train-tokenizer", update=update, loss=1.0)
    run.save()
    run.close()

    again = Run.open(run.directory, device=torch.device("cpu"), training=True)
    kept = attached(again, Kept())
    assert not (run.directory / "kept").exists()  # until something is saved
    again.tell()
    again.close()

    assert steps_of(kept) == [50, 100]
    assert kept.is_closed


def test_a_logger_that_fails_is_said_once_and_training_goes_on(run: Run) -> None:
    said: list[str] = []
    attached(run, Kept(fails=True), said.append)

    for update in (50, 100):
        run.log(stage="train-tokenizer", update=update, loss=1.0)
        run.save()

    assert said == ["kept failed (no route) and gets no more points; metrics.jsonl has them all"]


def test_going_back_to_an_older_checkpoint_is_said(run: Run) -> None:
    said: list[str] = []
    kept = attached(run, Kept(), said.append)
    run.log(stage="train-tokenizer", update=50, loss=1.0)
    run.save()
    [feed] = run.listeners

    feed.saved(0)

    assert "work that was taken back" in said[0]
    assert steps_of(kept) == [50]
    run.save()
    assert steps_of(kept) == [50, 50]


def test_a_position_that_cannot_be_read_is_named(run: Run) -> None:
    (run.directory / "kept").mkdir()
    (run.directory / "kept" / "position.json").write_text("[]")

    with pytest.raises(ConfigError, match=r"Remove .*kept\."):
        attached(run, Kept())


def test_stages_without_updates_stand_at_the_steps_collected_before_them() -> None:
    lines: list[dict[str, Any]] = [
        {"time": 1, "event": "stage", "stage": "collect", "seconds": 2.0, "figures": {"steps_in_all": 30, "x": 4}},
        {"time": 2, "event": "growth", "stage": "train-dynamics", "update": 9, "name": "loss", "now": 3.0},
        {"time": 3, "event": "stage", "stage": "evaluate", "seconds": 3.0, "figures": {"mean_score": 5, "words": "x"}},
        {"time": 4, "event": "stage", "stage": "train-dynamics", "seconds": 1.0, "figures": {"updates": 80, "loss": 1}},
        {"time": 5, "stage": "diagnose", "tokens_right": 0.5},
        {"time": 6, "stage": 7, "x": 1},
    ]  # fmt: skip
    counters = Counters()

    found = [(r.number, r.stage, r.step) for r in records_of(lines, counters)]

    assert found == [(0, "collect", 30), (2, "evaluate", 30), (3, "train-dynamics", 80), (4, "diagnose", 30)]
    assert counters == Counters(lines=6, steps=30)


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """All points in TensorBoard's event files, file by file, as they stand there."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util import tensor_util

    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(directory.glob("events.*")):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                point = (event.step, float(tensor_util.make_ndarray(value.tensor)))
                found.setdefault(value.tag, []).append(point)
    return found


@pytest.mark.pipeline
def test_tensorboard_holds_the_very_points_of_the_file_after_a_pipeline_and_a_second_start(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent.parent)
    Path("p.yaml").write_text(PIPELINE)

    first = command("run", "p.yaml")
    after_first = scalars(Path("runs/p/tensorboard"))
    second = command("run", "p.yaml", "--log", "tensorboard")

    assert first.exit_code == second.exit_code == 0, first.output + second.output
    points = scalars(Path("runs/p/tensorboard"))
    assert points == after_first
    lines = [json.loads(line) for line in Path("runs/p/metrics.jsonl").read_text().splitlines()]
    wanted = [
        (line["update"], pytest.approx(line["total_loss"]))
        for line in lines
        if line["stage"] == "train-tokenizer" and "event" not in line
    ]
    at_the_end = [line["figures"] for line in lines if line["stage"] == "train-tokenizer" and "event" in line]
    assert len(wanted) == len(at_the_end) == 2
    assert sorted(points["train-tokenizer/total_loss"]) == sorted(
        wanted + [(figures["updates"], pytest.approx(figures["total_loss"])) for figures in at_the_end]
    )
    assert [step for step, _ in points["evaluate/mean_score"]] == [24]


@pytest.mark.pipeline
def test_tensorboard_has_nothing_twice_after_a_real_kill(tmp_path: Path, repository: Path) -> None:
    """A training command is killed twice between checkpoints, and then ends: every point of the file, once."""
    pytest.importorskip("tensorboard")
    (tmp_path / "p.yaml").write_text(
        "preset: tiny\ngame: toy_game:Toy\ndataset: d.zarr\nrun: runs/p\nlog: [tensorboard]\n"
        "first: [{collect: {steps: 30}}, {train-tokenizer: {updates: 300}}]\n"
    )
    environment = {**os.environ, "IRIS_SAVE_SECONDS": "0.5", "PYTHONPATH": f"{repository}:{repository / 'tests'}"}
    command, metrics = [sys.executable, "-m", "iris_cli", "run", "p.yaml"], tmp_path / "runs/p/metrics.jsonl"

    for kill_after in (2, 4):  # lines
        running = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < kill_after:
            assert running.poll() is None
            time.sleep(0.02)
        running.kill()
        running.wait()
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)

    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    wanted = [line["update"] for line in lines if line["stage"] == "train-tokenizer" and "event" not in line]
    points = scalars(tmp_path / "runs/p/tensorboard")
    assert wanted[-1] == 300
    assert sorted(set(wanted)) == wanted
    assert [step for step, _ in points["train-tokenizer/gradient_norm"]] == [*wanted, 300]  # and its end


def test_a_package_that_is_missing_is_one_line_and_leaves_no_run_behind(
    command: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    monkeypatch.delitem(sys.modules, "iris_cli.loggers.trackio", raising=False)

    result = command("train-tokenizer", "data/breakout.zarr", "--preset", "tiny", "--updates", "1", "--log", "trackio")

    assert result.exit_code == 1
    assert result.stderr == "Error: trackio is not installed. Install it: pip install 'iris-wm[trackio]'\n"
    assert not Path("runs/breakout").exists()


def test_a_logger_that_is_none_is_named_before_anything_is_done(command: Command, workplace: Path) -> None:
    result = command("train-tokenizer", "data/breakout.zarr", "--preset", "tiny", "--log", "tensorbord")

    assert result.exit_code == 1
    assert "there is no logger 'tensorbord'. In --log. Did you mean 'tensorboard'?" in result.stderr
    assert not Path("runs/breakout").exists()
    Path("p.yaml").write_text(PIPELINE.replace("log: tensorboard", "log: [wandb, x]"))
    result = command("run", "p.yaml", "--dry-run")
    assert "there is no logger 'x'. In p.yaml:6." in result.stderr


def test_loggers_of_a_file_and_of_the_command_line_are_taken_together(tmp_path: Path) -> None:
    from iris_cli.plan import make_plan

    source = tmp_path / "p.yaml"
    source.write_text(PIPELINE.replace("toy_game:Toy", "Pong"))
    assert make_plan(source, log=("wandb", "tensorboard")).log == ("tensorboard", "wandb")
    source.write_text(PIPELINE.replace("toy_game:Toy", "Pong").replace("log: tensorboard", "log: {a: 1}"))
    with pytest.raises(ConfigError, match=r"log is .*list of names"):
        make_plan(source)


class Called:
    """A package of the surface that we use, which keeps how it was called."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Callable[..., "Called"]:
        def call(*positional: Any, **named: Any) -> "Called":
            self.calls.append((name, {"values": positional, **named}))
            return self

        return call


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_records_reach_a_package_with_their_names_steps_and_numbers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = Called()
    monkeypatch.setitem(sys.modules, name, called)  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, f"iris_cli.loggers.{name}", raising=False)
    (tmp_path / "metrics.jsonl").write_text('{"time": 1, "stage": "train-dynamics", "update": 50, "loss": 0.5}\n')

    feed = Feed(tmp_path, name, ORIGIN, warn=lambda words: pytest.fail(words))
    feed.saved((tmp_path / "metrics.jsonl").stat().st_size)
    feed.close()
    monkeypatch.delitem(sys.modules, f"iris_cli.loggers.{name}")

    calls = dict(called.calls)
    assert calls["log"] == {"values": ({"train-dynamics/loss": 0.5, "train-dynamics/step": 50},), "step": 0}
    assert calls["init"]["resume"] == "allow"
    assert calls["init"]["config"] == {"seed": 0}
    assert called.calls[-1][0] == "finish"


def test_weights_and_biases_is_offline_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = Called()
    monkeypatch.setitem(sys.modules, "wandb", called)  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "iris_cli.loggers.wandb", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)

    (tmp_path / "metrics.jsonl").write_text('{"stage": "x", "update": 1, "loss": 1}\n' * 2)
    half = (tmp_path / "metrics.jsonl").stat().st_size // 2
    for mode, end in (("", half), ("online", 2 * half)):
        if mode:
            monkeypatch.setenv("WANDB_MODE", mode)
        feed = Feed(tmp_path, "wandb", ORIGIN, warn=lambda words: pytest.fail(words))
        feed.saved(end)
        feed.close()
    monkeypatch.delitem(sys.modules, "iris_cli.loggers.wandb")

    assert [facts["mode"] for what, facts in called.calls if what == "init"] == ["offline", "online"]


@pytest.mark.pipeline
@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_the_real_package_takes_records_offline(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "database"))  # read when it is imported
    monkeypatch.setenv("WANDB_MODE", "offline")
    pytest.importorskip(name)
    lines = [{"time": 1.0 + u, "stage": "train-dynamics", "update": u, "loss": 1 / u} for u in (50, 100)]
    path = tmp_path / "metrics.jsonl"
    said: list[str] = []
    for count in (1, 2):  # the second start goes on
        path.write_text("".join(json.dumps(line) + "\n" for line in lines[:count]))
        feed = Feed(tmp_path, name, ORIGIN, warn=said.append)
        feed.saved(path.stat().st_size)
        feed.close()

    assert said == []
    if name == "wandb":
        assert len(list((tmp_path / "wandb").glob("wandb/offline-run-*/*.wandb"))) == 2
    else:
        import sqlite3

        [file] = (tmp_path / "database").glob("*.db")
        with sqlite3.connect(file) as database:
            rows = database.execute("select step, metrics from metrics order by step").fetchall()
        assert [(step, json.loads(metrics)["train-dynamics/step"]) for step, metrics in rows] == [(0, 50), (1, 100)]
