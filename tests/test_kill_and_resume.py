"""A pipeline or training command that is killed or interrupted anywhere ends, started again, bit for bit the same.

Real processes on real Pong, with the tiny preset. Instants are random fractions of each stage's measured time; where
one misses its stage because the machine was faster this time, the files are put back and an earlier one is tried.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from iris_cli.replay.dataset import Dataset

pytestmark = pytest.mark.pipeline

ROOT = Path(__file__).resolve().parent.parent
FILE = """
preset: tiny
game: Pong
dataset: data/game.zarr
run: runs/game
rounds: 2
first:
  - collect: {steps: 120}
round:
  - collect: {steps: 120, num_envs: 2}
  - train-tokenizer: {updates: 30}
  - tokenize
  - train-dynamics: {updates: 30}
  - train-actor-critic: {updates: 15}
  - evaluate: {episodes: 3, max_steps: 40}
then:
  - diagnose: {steps: 60, horizon: 5}
  - imagine: {render: dream.png, steps: 8, num: 3, warm_up: 5}
"""
ROUND = ("collect", "train-tokenizer", "tokenize", "train-dynamics", "train-actor-critic", "evaluate")
THEN = ("diagnose", "imagine")
STAGES = ("collect", *ROUND, *ROUND, *THEN)
TINY = ("run", "tiny.yaml")
CRAFTER = (  # as it is shipped, but short and small
    "run", str(ROOT / "pipelines" / "crafter-delta-iris.yaml"), "--preset", "tiny",
    *(part for assignment in (
        "dataset=data/game.zarr", "run=runs/game", "rounds=2", "collect.steps=300", "collect.num_envs=2",
        "dynamics.rewards=symlog", "actor_critic.values=symlog", "train-tokenizer.updates=30",
        "train-dynamics.updates=30", "train-actor-critic.updates=20", "evaluate.episodes=3", "evaluate.num_envs=2",
        "evaluate.max_steps=60", "imagine.render=dream.png", "imagine.steps=4", "imagine.num=2",
    ) for part in ("--set", assignment)),
)  # fmt: skip
CRAFTER_STAGES = ("collect", *3 * ["train"], "collect", *3 * ["train"], "evaluate", "imagine")
MARK = uuid.uuid4().hex  # in the environment of every process that is started here
TRIES = 6


class Stopped(NamedTuple):
    """How a process ended, after a signal."""

    code: int
    output: str  # after the signal
    seconds: float  # from the signal to the end


def start(root: Path, *arguments: str, save_seconds: float) -> "subprocess.Popen[str]":
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200", "IRIS_TEST_MARK": MARK,
        "IRIS_SAVE_SECONDS": str(save_seconds),
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "iris_cli", *arguments], cwd=root, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(root: Path, *arguments: str, save_seconds: float = 0.1) -> str:
    process = start(root, *arguments, save_seconds=save_seconds)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    return output


def ended_stages(line: str) -> int:
    return len(re.findall(rf"^(?:first|then|round \d+/\d+) +(?:{'|'.join((*ROUND, *THEN))}) ", line, re.MULTILINE))


def stop_pipeline(
    root: Path,
    index: int,
    delay: float,
    stop: Callable[["subprocess.Popen[str]"], None],
    pipeline: tuple[str, ...] = TINY,
    stages: tuple[str, ...] = STAGES,
) -> Stopped | None:
    """Start the pipeline, and stop it `delay` seconds into stage `index`; None if it is beyond that already."""
    process = start(root, *pipeline, save_seconds=0.1)
    assert process.stdout is not None
    try:
        position, seen = None, []
        while position is None or position < index:
            line = process.stdout.readline()
            seen.append(line)
            assert line, "".join(seen)
            left = re.search(r": (\d+) of (\d+) stages to do", line)
            if left:
                assert int(left[2]) == len(stages)
                position = len(stages) - int(left[1])
            elif position is not None:
                position += ended_stages(line)
        if position > index:
            return None
        time.sleep(delay)
        begun = time.monotonic()
        stop(process)
        output, _ = process.communicate(timeout=60)
        return Stopped(process.returncode, output, time.monotonic() - begun)
    finally:
        process.kill()
        process.communicate()


def kill_within(
    root: Path, index: int, seconds: float, pipeline: tuple[str, ...] = TINY, stages: tuple[str, ...] = STAGES
) -> Stopped:
    """Kill the pipeline at a random instant of stage `index`, which takes about `seconds`."""
    before = root.with_name(f"{root.name}.before")
    shutil.copytree(root, before)
    fraction = random.random()
    try:
        for attempt in range(TRIES):
            delay = seconds * fraction / 2**attempt
            stopped = stop_pipeline(root, index, delay, lambda process: process.kill(), pipeline, stages)
            if stopped is not None and not ended_stages(stopped.output):
                return stopped
            shutil.rmtree(root)
            shutil.copytree(before, root)
    finally:
        shutil.rmtree(before)
    raise AssertionError(f"{stages[index]} was missed {TRIES} times")


def plain(value: Any) -> Any:
    """Tensors as bytes, so that nothing but equal bits is equal."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def outcome(root: Path, name: str = "game") -> dict[str, Any]:
    """Everything a pipeline leaves behind that must not depend on how often it was stopped."""
    run = root / "runs" / name
    checkpoint = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()
    state = json.loads((checkpoint / "state.json").read_text())
    dataset = Dataset.open(root / "data" / f"{name}.zarr")
    fields = ["observations", "actions", "rewards", "terminations", "truncations"]
    fields += ["achievements"] if dataset.achievements else []
    tokens = dataset.attributes["tokens"]
    reports = {path.name: json.loads(path.read_text()) for path in (run / "reports").iterdir()}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "weights": plain(load_file(checkpoint / "weights.safetensors")),
        "optimizers": plain(torch.load(checkpoint / "optimizers.pt", weights_only=True)),
        **{
            name: state[name]
            for name in ("updates", "invocations", "progress", "cursor", "collected", "visits", "passes")
        },
        **{name: dataset.read(name).tobytes() for name in fields},
        "episode ends": dataset.episode_ends.tolist(),
        "episode ids": dataset.episode_ids.tolist(),
        "collector": dataset.attributes["collector"],
        "tokens": {name: plain(torch.from_numpy(dataset.read_tokens(name))) for name in tokens},
        "scores": {name: (report.get("scores"), report.get("lengths")) for name, report in reports.items()},
        "achievements of reports": {name: report.get("achievements") for name, report in reports.items()},
        "world models": {name: report["world_model"] for name, report in reports.items()},
        "fingerprints": {name: report["fingerprint"] for name, report in reports.items()},
        "picture": {path.name: path.read_bytes() for path in (run / "media").glob("*")},
        "metrics": [(line["stage"], line["round"], line.get("update")) for line in lines],
    }


def assert_equal(got: dict[str, Any], expected: dict[str, Any]) -> None:
    assert [name for name in expected if got[name] != expected[name]] == []


@pytest.fixture(scope="module", autouse=True)
def _seed() -> Iterator[None]:
    random.seed(int(os.environ.get("IRIS_TEST_SEED", "0")))
    yield
    deadline = time.monotonic() + 20
    while left := processes_left():
        assert time.monotonic() < deadline, f"processes were left behind: {left}"
        time.sleep(0.2)


def processes_left() -> list[int]:
    """Processes of ours that outlived the one that started them, by what they inherited from it."""
    left = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"IRIS_TEST_MARK={MARK}".encode() in path.read_bytes():
                left.append(int(path.parent.name))
        except OSError:  # it has ended, or is someone else's
            continue
    return left


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pipeline ran without a stop, and without a checkpoint in the middle of a stage."""
    root = tmp_path_factory.mktemp("undisturbed")
    (root / "tiny.yaml").write_text(FILE)
    finish(root, "run", "tiny.yaml", save_seconds=1000)
    return root


@pytest.fixture(scope="module")
def expected(undisturbed: Path) -> dict[str, Any]:
    return outcome(undisturbed)


@pytest.fixture(scope="module")
def stage_seconds(undisturbed: Path) -> list[float]:
    return seconds_of_stages(undisturbed)


def seconds_of_stages(root: Path) -> list[float]:
    lines = (root / "runs" / "game" / "metrics.jsonl").read_text().splitlines()
    return [line["seconds"] for line in map(json.loads, lines) if line.get("event") == "stage"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where nothing has run yet."""
    root = tmp_path / "stopped"
    root.mkdir()
    (root / "tiny.yaml").write_text(FILE)
    return root


def occurrences() -> list[int]:
    """One place in the plan for each stage, in order; rounds are random."""
    return [
        0,
        *(1 + number + len(ROUND) * random.randrange(2) for number in range(len(ROUND))),
        len(STAGES) - 2,
        len(STAGES) - 1,
    ]


def test_a_pipeline_killed_in_every_stage_ends_like_one_that_was_not(
    root: Path, expected: dict[str, Any], stage_seconds: list[float]
) -> None:
    for index in sorted(occurrences()):
        stopped = kill_within(root, index, stage_seconds[index])
        assert stopped.code == -signal.SIGKILL

    finish(root, "run", "tiny.yaml")

    assert_equal(outcome(root), expected)


def test_an_interrupted_pipeline_stops_with_130_and_goes_on_where_it_was(
    root: Path, expected: dict[str, Any], stage_seconds: list[float]
) -> None:
    for number, index in enumerate(sorted(occurrences()[:-1])):
        name, delay = (signal.SIGINT, signal.SIGTERM)[number % 2], stage_seconds[index] * random.random()
        stopped = stop_pipeline(root, index, delay, lambda process, name=name: process.send_signal(name))
        assert stopped is not None
        assert stopped.code == 130, stopped.output
        assert ended_stages(stopped.output) <= 1  # the last update of a stage was under way, or a single block
        assert "Stopping. Press Ctrl-C again" in stopped.output
        assert "the same command goes on" in stopped.output
        assert "Traceback" not in stopped.output
        assert stopped.seconds < 10

    finish(root, "run", "tiny.yaml")

    assert_equal(outcome(root), expected)


def test_the_crafter_pipeline_killed_on_its_way_ends_like_one_that_was_not(tmp_path: Path) -> None:
    pytest.importorskip("crafter", reason="an extra")
    whole, root = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    root.mkdir()
    finish(whole, *CRAFTER, save_seconds=1000)
    seconds, expected = seconds_of_stages(whole), outcome(whole)

    for index in (0, 1, 4, 6, 8):  # in both collections, in training before and after the second, in the evaluation
        kill_within(root, index, seconds[index], CRAFTER, CRAFTER_STAGES)
    finish(root, *CRAFTER)

    assert_equal(outcome(root), expected)
    [report] = expected["achievements of reports"].values()
    assert report["episodes"] == 3
    assert np.frombuffer(expected["achievements"], bool).any()  # else nothing was at stake


def test_a_second_interrupt_stops_at_once_and_the_last_checkpoint_stands(
    undisturbed: Path, tmp_path: Path, expected: dict[str, Any]
) -> None:
    root = tmp_path / "root"
    shutil.copytree(undisturbed, root)
    arguments = ("train-dynamics", "data/game.zarr", "--run", "runs/game", "--updates", "100000")
    process = start(root, *arguments, "--set", "dynamics.batch_size=2000", save_seconds=1000)  # seconds an update
    assert process.stdout is not None
    latest = root / "runs/game/checkpoints/latest"
    before = latest.read_text()
    while "Changed" not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(1)

    process.send_signal(signal.SIGINT)
    assert "Press Ctrl-C again" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)

    assert process.returncode == 130, output
    assert "Stopped at once" in output
    assert "Traceback" not in output
    assert latest.read_text() == before
    assert_equal(outcome(root), expected)


@pytest.mark.parametrize(
    ("stage", "updates"), [("train-tokenizer", 120), ("train-dynamics", 100), ("train-actor-critic", 50)]
)
def test_a_training_command_that_was_killed_goes_on_and_ends_the_same(
    undisturbed: Path, tmp_path: Path, stage: str, updates: int
) -> None:
    whole, root = tmp_path / "whole", tmp_path / "root"
    shutil.copytree(undisturbed, whole)
    shutil.copytree(undisturbed, root)
    arguments = (stage, "data/game.zarr", "--run", "runs/game", "--updates", str(updates))
    finish(whole, *arguments, save_seconds=1000)
    latest = root / "runs/game/checkpoints/latest"
    before = latest.read_text()

    process = start(root, *arguments, save_seconds=0.1)
    while latest.read_text() == before:  # then it is past some update
        assert process.poll() is None
        time.sleep(0.002)
    time.sleep(0.5 * random.random())
    process.kill()
    process.communicate()
    output = finish(root, *arguments)

    assert process.returncode == -signal.SIGKILL
    assert re.search(rf"{stage}: going on after update \d+ of {updates}", output)
    assert_equal(outcome(root), outcome(whole))


JOINT = """
agent: twm
preset: tiny
game: Pong
dataset: data/game.zarr
run: runs/game
first:
  - collect: {steps: 150, epsilon: 1.0}
  - train-tokenizer: {updates: 80}
  - train-dynamics: {updates: 80}
  - train-actor-critic: {updates: 150}
rounds: 2
round:
  - collect: {steps: 19, epsilon: 0.0}
  - train-agent: {updates: 25}
then:
  - evaluate: {episodes: 1, max_steps: 20, temperature: 1.0}
"""


def stage_under_way(root: Path) -> str | None:
    """The stage that the latest checkpoint was written in the middle of."""
    checkpoints = root / "runs" / "game" / "checkpoints"
    try:
        state = json.loads((checkpoints / (checkpoints / "latest").read_text().strip() / "state.json").read_text())
    except OSError:  # not there yet, or replaced just now
        return None
    return state["progress"] and state["progress"]["stage"]


def test_joint_training_that_was_killed_in_every_stage_ends_like_one_that_was_not(tmp_path: Path) -> None:
    whole, root = tmp_path / "whole", tmp_path / "root"
    for place in (whole, root):
        place.mkdir()
        (place / "joint.yaml").write_text(JOINT)
    finish(whole, "run", "joint.yaml", save_seconds=1000)
    output = ""

    for stage in ("train-tokenizer", "train-dynamics", "train-actor-critic", "train-agent"):
        process = start(root, "run", "joint.yaml", save_seconds=0.02)
        while stage_under_way(root) != stage:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.kill()
        output += process.communicate()[0]
    output += finish(root, "run", "joint.yaml")

    assert re.search(r"train-agent: going on after update \d+ of 25", output)
    assert_equal(outcome(root), outcome(whole))
