"""Runs in an object store: every stage on real Pong as on disk, through kills and a server that goes away."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result

from iris_cli import run as run_module
from iris_cli.cli import cli
from iris_cli.errors import RunError, StoreError
from iris_cli.object_store import StoreURL, listing, put
from iris_cli.replay.dataset import Dataset
from iris_cli.run import Run

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
CHANGING = {
    "checkpoint",
    "time",
    "seconds",
    "created",
    "updates_per_second",
    "steps_per_second",
    "id",
    "machine",
    "command",
}
FILE = """
game: Pong
preset: tiny
settings: {{tokenizer: {{lpips: none}}}}
dataset: {place}/data/pong.zarr
run: {place}/runs/pong
rounds: 2
round:
  - collect: {{steps: 50}}
  - train-tokenizer: {{updates: 3}}
  - tokenize
  - train-dynamics: {{updates: 2, from: 2}}
then:
  - train-actor-critic: {{updates: 2}}
  - evaluate: {{episodes: 1, max_steps: 10, num_envs: 1}}
  - imagine: {{render: dream.png, steps: 2, num: 1, warm_up: 2}}
"""

Command = Callable[..., Result]


def pipeline(folder: Path, place: StoreURL | str) -> Path:
    file = folder / "tiny.yaml"
    file.write_text(FILE.format(place=place))
    return file


def steady(value: object) -> object:
    """Plain values without what differs between two equal runs: times, speeds and places."""
    if isinstance(value, dict):
        return {name: steady(one) for name, one in value.items() if name not in CHANGING}
    return [steady(one) for one in value] if isinstance(value, list) else value


def kind(line: dict) -> list:
    return [line.get(name) for name in ("event", "stage", "round", "phase")]


def assert_same(url: StoreURL, path: Path, *, means: bool = True) -> None:
    """The run and the dataset at the URL are those on disk, bit for bit; `means`: of the updates since a resume too."""
    theirs, mine = (Run.open(place / "runs" / "pong", device=CPU) for place in (url, path))
    assert theirs.fingerprint() == mine.fingerprint()
    assert (theirs.updates, theirs.cursor, theirs.collected) == (mine.updates, mine.cursor, mine.collected)
    for name in ("tokenizer", "dynamics", "actor_critic"):
        assert theirs.visits(name).counts.tolist() == mine.visits(name).counts.tolist()
    lines = [(run.directory / "metrics.jsonl").read_text().splitlines() for run in (theirs, mine)]
    one, two = ([steady(json.loads(line)) for line in each] for each in lines)
    assert [line if means else kind(line) for line in one] == [line if means else kind(line) for line in two]
    for report in sorted((mine.directory / "reports").glob("*.json")):
        other = json.loads((theirs.directory / "reports" / report.name).read_text())
        assert steady(other) == steady(json.loads(report.read_text()))
    for film in (mine.directory / "media").glob("*.png"):
        assert (theirs.directory / "media" / film.name).read_bytes() == film.read_bytes()
    one, two = (Dataset.open(place / "data" / "pong.zarr") for place in (url, path))
    for name in ("observations", "actions", "rewards", "terminations", "truncations"):
        np.testing.assert_array_equal(one.read(name), two.read(name))
    assert one.attributes["tokens"] == two.attributes["tokens"]
    for fingerprint in one.attributes["tokens"]:
        np.testing.assert_array_equal(one.read_tokens(fingerprint), two.read_tokens(fingerprint))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the pipeline's dataset and run on disk."""
    from click.testing import CliRunner

    folder = tmp_path_factory.mktemp("disk")
    result = CliRunner().invoke(cli, ["run", str(pipeline(folder, str(folder)))])
    assert result.exit_code == 0, result.output
    return folder


def stages(place: StoreURL | Path) -> list[tuple[str, ...]]:
    """Every stage by hand."""
    dataset, run = str(place / "data" / "pong.zarr"), str(place / "runs" / "pong")
    return [
        ("collect", "--env", "Pong", "--steps", "60", "--out", dataset),
        ("train-tokenizer", dataset, "--run", run, "--preset", "tiny", "--set", "tokenizer.lpips=none", "--updates",
         "2"),
        ("tokenize", dataset, "--run", run),
        ("train-dynamics", dataset, "--run", run, "--updates", "2"),
        ("train-actor-critic", dataset, "--run", run, "--updates", "2"),
        ("evaluate", "--run", run, "--episodes", "1", "--max-steps", "10", "--num-envs", "1"),
        ("collect", "--run", run, "--steps", "20"),
    ]  # fmt: skip


@pytest.mark.pipeline
def test_every_stage_by_hand_is_what_it_is_on_disk(bucket: StoreURL, tmp_path: Path, command: Command) -> None:
    for place in (bucket, tmp_path):
        for stage in stages(place):
            result = command(*stage)
            assert result.exit_code == 0, result.output
            assert place is tmp_path or str(tmp_path) not in result.output  # people read URLs

    assert_same(bucket, tmp_path)
    assert not list((tmp_path / "cache" / "working").glob("*/pong/.*.partial"))
    for reading in (
        ("info", str(bucket / "runs" / "pong")),
        ("watch", str(bucket / "runs" / "pong"), "--once"),
        ("verify", str(bucket / "runs" / "pong")),
        ("verify", str(bucket / "data" / "pong.zarr")),
        ("curve", str(bucket / "runs" / "pong"), "--x", "minutes", "--out", str(tmp_path / "curve.svg")),
        ("report", str(bucket / "runs" / "pong"), "--no-pictures"),
        ("export-checkpoint", str(tmp_path / "last.pt"), "--run", str(bucket / "runs" / "pong")),
        ("push", str(bucket / "runs" / "pong"), "--to", str(tmp_path / "shared")),
        ("pull", str(tmp_path / "shared"), "--out", str(bucket / "runs" / "pulled")),
        ("export", str(bucket / "data" / "pong.zarr"), "--to", "mp4", "--out", str(tmp_path / "pong.mp4")),
        ("import", str(tmp_path / "pong.mp4"), "--out", str(bucket / "data" / "imported.zarr")),
    ):
        result = command(*reading)
        assert result.exit_code == 0 or "no place for" in result.output, result.output
        assert "cache/working" not in result.output
    page = (bucket / "runs" / "pong" / "report.html").read_text()
    assert str(bucket / "runs" / "pong") in page
    assert "cache/working" not in page
    assert Dataset.open(bucket / "data" / "imported.zarr").num_steps == 80


@pytest.mark.pipeline
def test_killed_and_cut_off_it_ends_as_if_undisturbed(  # type: ignore[no-untyped-def]
    bucket: StoreURL, line, undisturbed: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 of the program, then the server gone in the middle of a commit, of weights, and of their naming."""
    monkeypatch.setattr(run_module, "SAVE_SECONDS", 0.0)  # a checkpoint after every update and stage
    url, file = bucket / "runs" / "pong", pipeline(tmp_path, bucket)
    program = subprocess.Popen(
        [sys.executable, "-m", "iris_cli", "run", str(file)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "IRIS_SAVE_SECONDS": "0", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while sum("weights" in request for request in line.requests if request.startswith("PUT")) < 4:
        assert program.poll() is None
        time.sleep(0.01)
    program.send_signal(signal.SIGKILL)
    program.wait()
    left = list((tmp_path / "cache" / "working").iterdir())
    assert left  # of the killed one
    numbers = [Run.open(url, device=CPU).checkpoint_number]
    assert not any(place in (tmp_path / "cache" / "working").iterdir() for place in left)

    for what, times in (("data/pong.zarr/zarr.json", 1), ("weights.safetensors", 2), ("checkpoints/latest", 2)):
        seen: list[str] = []

        def is_it(request: str, what: str = what, times: int = times, seen: list[str] = seen) -> bool:
            seen.extend([request] if request.startswith("PUT") and request.endswith(what) else [])
            return len(seen) == times

        line.cut_at = is_it
        result = command("run", str(file))
        assert result.exit_code == 1, result.output
        assert "trying again in" in result.stderr
        assert "the object store does not answer" in result.stderr
        assert "the same command goes on" in result.stderr
        line.join()
        numbers.append(Run.open(url, device=CPU).checkpoint_number)  # whole

    assert numbers == sorted(numbers)
    assert numbers[0] >= 2
    assert command("run", str(file)).exit_code == 0
    assert_same(bucket, undisturbed, means=False)
    whole = {name.split("/")[1] for name in listing(url) if name.startswith("checkpoints/") and name.endswith("/done")}
    assert len(whole) == 2  # as on disk


def make(url: StoreURL | Path) -> Run:
    from iris_cli.agents import presets_for
    from iris_cli.envs.spec import training_spec

    return Run.create(
        url, agent="iris", config=presets_for("iris")["tiny"], environment=training_spec("Pong"), num_actions=6,
        dataset=Path("data/none.zarr"), seed=0, device=CPU,
    )  # fmt: skip


def test_of_two_machines_one_may_train(bucket: StoreURL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = bucket / "pong"
    mine = make(url)
    with pytest.raises(RunError, match="is writing to the run"):
        Run.open(url, device=CPU, training=True)
    monkeypatch.setenv("IRIS_CACHE", str(tmp_path / "another-machine"))
    theirs = Run.open(url, device=CPU, training=True)
    theirs.save()
    before = listing(url)

    with pytest.raises(RunError, match=f"another machine has saved this run since it was opened. In {url}"):
        mine.save()

    assert listing(url) == before
    theirs.close()
    mine.close()


def test_a_run_that_is_there_is_not_made_again(bucket: StoreURL) -> None:
    make(bucket / "pong").close()
    before = listing(bucket)

    with pytest.raises(RunError, match="there is a run already"):
        make(bucket / "pong")

    assert listing(bucket) == before


def test_a_false_start_leaves_nothing(bucket: StoreURL) -> None:
    run = make(bucket / "pong")
    assert listing(bucket)
    run.withdraw()
    run.close()

    assert not listing(bucket)


def test_a_reader_takes_nothing_half_replaced(bucket: StoreURL) -> None:
    """A checkpoint that lacks its mark is not read, and no other is read in its place."""
    run = make(bucket / "pong")
    run.close()
    put(bucket / "pong" / "checkpoints" / "latest", b"000002\n")

    with pytest.raises(RunError, match="the latest checkpoint is not whole"):
        Run.open(bucket / "pong", device=CPU)


def test_a_server_that_goes_away_is_one_clear_error(bucket: StoreURL, line, capsys) -> None:  # type: ignore[no-untyped-def]
    run = make(bucket / "pong")
    line.cut()

    with pytest.raises(StoreError, match=f"the object store does not answer.*In {bucket}/pong"):
        run.save()

    assert "trying again in 0.5 s" in capsys.readouterr().err
    line.join()
    run.close()
    assert Run.open(bucket / "pong", device=CPU).checkpoint_number == 1


@pytest.mark.pipeline
def test_a_sweep_s_runs_may_lie_there(
    bucket: StoreURL, tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(repository))
    Path("p.yaml").write_text(
        f"preset: tiny\ndataset: {bucket}/data/{{game}}-{{seed}}.zarr\nrun: {bucket}/runs/{{game}}-{{seed}}\n"
        "first: [{collect: {steps: 20}}]\nthen: [{evaluate: {episodes: 1, max_steps: 10, measured_steps: 0}}]\n"
    )
    arguments = ("sweep", "p.yaml", "--games", "Pong", "--seeds", "2", "--device", "cpu", "--engine", "local")

    done = command(*arguments)

    assert done.exit_code == 0, done.output
    assert "2 runs, 2 done" in done.output
    assert str(bucket / "runs" / "pong-1") in done.output  # iris scores names the run as it was asked for
    status = json.loads(command("sweep", "status", "runs/sweeps/p", "--json").stdout)
    assert [run["score"] for run in status["runs"]] == [0, 0]
    assert not Path("s3:").exists()
    for seed in (0, 1):
        assert Run.open(bucket / "runs" / f"pong-{seed}", device=CPU).collected["steps"] == 20
    assert "2 runs, 2 done" in command(*arguments).output  # what is complete is left alone
