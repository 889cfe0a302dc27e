"""Several processes train as one: the same losses and weights, the same files, one error if one of them dies.

Equality is of float32 on a CPU, where sums come in another order. Dropout is on, codes are revived, rows are padded and
shared unevenly. What the processes do is in data_parallel_worker.py.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from iris_cli import interrupts, invocation
from iris_cli.envs.spec import training_spec
from iris_cli.launch import Launch, launch
from iris_cli.replay.dataset import Dataset
from iris_cli.run import Run
from iris_cli.stages import training
from iris_cli.stages.train_dynamics import TrainDynamics, train_dynamics

TESTS = Path(__file__).resolve().parent
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def worker() -> Iterator[ModuleType]:
    """data_parallel_worker.py, for what it trains."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TESTS)
        import data_parallel_worker  # from the folder of tests

        yield data_parallel_worker


@pytest.fixture(scope="module")
def trained(_furnished: Path, worker: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where one process and two trained the same; the current directory meanwhile."""
    root = tmp_path_factory.mktemp("trained")
    shutil.copytree(_furnished / "data", root / "data")
    make_stacks(root / "data" / "stacks.zarr")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(training, "REPORT_EVERY", 1)
        for agent in worker.SETTINGS:
            worker.train_both(f"one-{agent}", agent)
        for name in ("whole", "stopped"):
            shutil.copytree(root / "runs" / "one-iris", root / "runs" / name)
        again(root, "whole", worker.UPDATES)
        outputs = together([sys.executable, str(TESTS / "data_parallel_worker.py"), str(root)])
        assert all(code == 0 for code, _ in outputs), outputs
        yield root


def make_stacks(path: Path) -> None:
    """Random stacks of grey frames: 4 batches of 7 and a rest of 1, in episodes of 10 and 19 steps."""
    lengths, draws = [10, 19], np.random.default_rng(0)
    steps = sum(lengths)
    over = np.isin(np.arange(steps), np.cumsum(lengths) - 1)
    environment = training_spec("Pong").as_grey_stacks().to_mapping()
    with Dataset.create(path, environment=environment, action_meanings=[f"ACTION{i}" for i in range(6)]) as dataset:
        dataset.append(
            observations=draws.integers(0, 256, (steps, 64, 64, 4), np.uint8), actions=draws.integers(0, 6, steps),
            rewards=over.astype(np.float32), terminations=over, truncations=np.zeros(steps, bool),
            episode_lengths=lengths, episode_ids=range(len(lengths)), writer="random",
        )  # fmt: skip


def again(root: Path, name: str, updates: int) -> None:
    """Train the dynamics of a run once more, or to the end of what was stopped, in this process alone."""
    with closing(Run.open(root / "runs" / name, device=CPU, training=True)) as run:
        run.dataset_path = root / "data" / "pong.zarr"
        train_dynamics(run, TrainDynamics(updates=updates))
        run.save()


def together(command: list[str], processes: int = 2, **variables: str) -> list[tuple[int, str]]:
    """Exit codes and outputs of processes as torchrun starts them."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={
                **os.environ, "PYTHONPATH": str(TESTS.parent), "COLUMNS": "200", "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port), "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
                "RANK": str(rank), "LOCAL_RANK": str(rank), **variables,
            },
        )
        for rank in range(processes)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=120)[0] for process in started]
    return [(process.returncode, output) for process, output in zip(started, outputs, strict=True)]


def lines(root: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "runs" / name / "metrics.jsonl").read_text().splitlines()]


def checkpoint(root: Path, name: str) -> Path:
    checkpoints = root / "runs" / name / "checkpoints"
    return checkpoints / (checkpoints / "latest").read_text().strip()


def weights(root: Path, name: str, component: str) -> torch.Tensor:
    """All of a component, codebooks and moving averages included."""
    tensors = load_file(checkpoint(root, name) / "weights.safetensors")
    return torch.cat([tensors[key].double().flatten() for key in tensors if key.startswith(component)])


def state(root: Path, name: str) -> dict[str, Any]:
    return json.loads((checkpoint(root, name) / "state.json").read_text())


@pytest.mark.parametrize("agent", ["iris", "delta-iris", "twm"])
def test_two_processes_lose_and_measure_what_one_does(trained: Path, worker: ModuleType, agent: str) -> None:
    one, two = lines(trained, f"one-{agent}"), lines(trained, f"two-{agent}")

    assert [line["update"] for line in two] == 2 * list(range(1, worker.UPDATES + 1))
    for ours, theirs in zip(one, two, strict=True):
        black = agent == "delta-iris" and ours["stage"] == "train-dynamics"  # padding, which GroupNorm divides by 0
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"time", "round", "stage"}:
            tolerance = 1e-2 if black and name == "gradient_norm" else 1e-5
            assert theirs[name] == pytest.approx(ours[name], rel=tolerance, abs=1e-6), name


@pytest.mark.parametrize(
    ("agent", "component", "tolerance"),
    [
        ("iris", "tokenizer", 1e-5),
        ("iris", "dynamics", 1e-5),
        ("delta-iris", "tokenizer", 1e-5),
        ("delta-iris", "dynamics", 1e-4),  # as above
        ("twm", "tokenizer", 1e-5),
        ("twm", "dynamics", 1e-5),
    ],
)
def test_two_processes_learn_the_weights_of_one(trained: Path, agent: str, component: str, tolerance: float) -> None:
    one, two = (weights(trained, f"{name}-{agent}", component) for name in ("one", "two"))

    assert (one - two).norm() / one.norm() < tolerance
    assert (one - two).abs().max() < 1e-3


@pytest.mark.parametrize("agent", ["iris", "delta-iris", "twm"])
def test_a_checkpoint_of_two_processes_is_one_processs(trained: Path, agent: str) -> None:
    one, two = (state(trained, f"{name}-{agent}") for name in ("one", "two"))
    optimizers = [
        torch.load(checkpoint(trained, f"{name}-{agent}") / "optimizers.pt", weights_only=True)
        for name in ("one", "two")
    ]

    assert {**one, "time": 0, "metrics_bytes": 0} == {**two, "time": 0, "metrics_bytes": 0}
    assert optimizers[0].keys() == optimizers[1].keys() == {"tokenizer", "dynamics"}
    assert (trained / "runs" / f"two-{agent}" / "metrics.jsonl").stat().st_size == two["metrics_bytes"]
    assert len((trained / "runs" / f"two-{agent}" / "history.jsonl").read_text().splitlines()) == 2


def test_what_two_processes_began_one_ends(trained: Path, worker: ModuleType) -> None:
    half = worker.UPDATES // 2
    begun = state(trained, "stopped")["progress"]
    told = (trained / "stopped.txt").read_text()

    again(trained, "stopped", worker.UPDATES)

    assert begun["done"] == half  # though the signal came to the second one alone
    assert told == f"train-dynamics stopped after update {half} of {worker.UPDATES}; the same command goes on."
    whole, stopped = (weights(trained, name, "dynamics") for name in ("whole", "stopped"))
    assert (whole - stopped).norm() / whole.norm() < 1e-5
    assert state(trained, "stopped")["progress"] is None


def test_a_batch_that_is_too_small_to_be_shared_is_an_error_of_all(trained: Path) -> None:
    for rank in (0, 1):
        told = (trained / f"refused-{rank}.txt").read_text()
        assert told.startswith("1 rows of a batch cannot be shared by 2 processes. In batch_size.")


def test_what_processes_tell_each_other(trained: Path) -> None:
    for rank in (0, 1):
        assert json.loads((trained / f"talked-{rank}.json").read_text()) == {
            "sums": [[[3.0, 3.0]] * 3, 10.0],
            "gathered": [0, 10, 11],
            "anywhere": [True, False],
            "alike": [True, False],
            "first": 5,
        }


# As people start it


@pytest.fixture
def place(_furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with datasets."""
    shutil.copytree(_furnished / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def torchrun(*arguments: str, **variables: str) -> "subprocess.Popen[str]":
    """The real thing, with two processes."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "iris_cli", "--", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS.parent), "COLUMNS": "200", "OMP_NUM_THREADS": "1", **variables},
    )  # fmt: skip


def process_of(rank: int, port_of: int) -> int:
    """The process that a torchrun process started as that rank."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == port_of and f"\0RANK={rank}\0".encode() in (path / "environ").read_bytes():
                return int(path.name)
        except OSError:  # it has ended, or is someone else's
            continue
    raise AssertionError(f"no process of {port_of} has rank {rank}")


@pytest.mark.pipeline
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_others_with_one_error_and_its_work_goes_on(
    place: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    updates = "100000"
    arguments = ("train-tokenizer", "data/pong.zarr", "--updates", updates)
    process = torchrun(*arguments, "--preset", "tiny", IRIS_SAVE_SECONDS="0.2")
    latest = place / "runs" / "pong" / "checkpoints" / "latest"
    until = time.monotonic() + 100
    while not latest.exists() or latest.read_text().strip() < "000004":
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.02)

    os.kill(process_of(rank, process.pid), signal.SIGKILL)
    killed = time.monotonic()
    output, _ = process.communicate(timeout=60)

    assert process.returncode != 0
    assert time.monotonic() - killed < 40  # torchrun itself leaves the others 30 seconds
    assert len(re.findall("^Error: ", output, re.MULTILINE)) == 1, output
    assert "Error: another process of this training ended, or did not answer for 300 s" in output
    assert "the same command goes on from it, with any number of processes" in output
    done = Run.open(Path("runs/pong"), device=CPU).unfinished["done"]
    assert done > 0
    monkeypatch.setattr(interrupts, "requested", lambda: True)  # after one more update
    goes_on = command(*arguments)
    assert goes_on.exit_code == 130, goes_on.output
    assert f"going on after update {done:,} of 100,000" in goes_on.output
    assert f"stopped after update {done + 1:,}" in goes_on.output


@pytest.fixture
def one_of_two(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes this process believe that torchrun started it as that one of two."""

    def believe(rank: int) -> None:
        for name, value in {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank}.items():
            monkeypatch.setenv(name, str(value))

    return believe


@pytest.mark.parametrize("stage", ["collect", "tokenize", "train-actor-critic", "train-agent", "evaluate", "run"])
def test_other_stages_refuse_to_do_their_work_twice(
    workplace: Path, command: Callable[..., Any], one_of_two: Callable[[int], None], stage: str
) -> None:
    one_of_two(0)
    first = command(stage)
    one_of_two(1)
    second = command(stage)

    assert first.stderr == (
        f"Error: {stage} is work for one process, but there are 2. In torchrun. Only train-tokenizer and "
        f"train-dynamics are data-parallel; run this one as: iris {stage}\n"
    )
    assert (first.exit_code, second.exit_code, second.output) == (1, 1, "")


def test_one_device_is_not_for_two_processes(
    workplace: Path, command: Callable[..., Any], one_of_two: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    one_of_two(0)
    train = ("train-tokenizer", "data/pong.zarr", "--device")
    assert "2 processes cannot share cuda:1. In --device. Choose auto, cpu or cuda." in command(*train, "cuda:1").stderr
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert "2 processes need as many GPUs, but there are 1." in command(*train, "auto").stderr


def test_a_process_is_one_of_several_only_if_it_is_numbered(
    one_of_two: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    one_of_two(1)
    assert launch() == Launch(processes=2, rank=1, local_rank=1, local_processes=2)
    monkeypatch.delenv("LOCAL_RANK")  # the others have meanings elsewhere, too
    assert launch() == Launch(processes=1, rank=0, local_rank=0, local_processes=1)


def test_the_history_says_how_many_processes_there_were(
    one_of_two: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    invocation.note(["train-tokenizer", "data/my pong.zarr"])
    assert invocation.typed() == "iris train-tokenizer 'data/my pong.zarr'"
    one_of_two(0)
    assert invocation.typed() == "torchrun --nproc-per-node 2 -m iris_cli -- train-tokenizer 'data/my pong.zarr'"
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (
        invocation.typed()
        == "torchrun --nnodes 2 --nproc-per-node 2 -m iris_cli -- train-tokenizer 'data/my pong.zarr'"
    )
    invocation.note(None)


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("agent", ["iris", "delta-iris"])
def test_two_gpus_lose_what_one_does(place: Path, command: Callable[..., Any], agent: str) -> None:
    """Without dropout, which each GPU draws for itself; products are rounded to TF32."""
    alike = [f"dynamics.{name}_dropout=0" for name in ("embedding", "attention", "residual")] if agent == "iris" else []
    losses = {}
    for name in ("one", "two"):
        for stage in ("train-tokenizer", "train-dynamics"):
            new = ("--preset", "tiny", "--agent", agent) if stage == "train-tokenizer" else ()
            changes = [word for assignment in alike for word in ("--set", assignment)]
            arguments = (stage, "data/pong.zarr", "--run", f"runs/{name}", "--updates", "5", "--device", "cuda", *new)
            if name == "one":
                assert command(*arguments, *changes).exit_code == 0
            else:
                process = torchrun(*arguments, *changes)
                output, _ = process.communicate(timeout=300)
                assert process.returncode == 0, output
        losses[name] = [line["total_loss"] for line in lines(place, name)]

    assert len(losses["two"]) == 2
    assert losses["two"] == pytest.approx(losses["one"], rel=1e-2)
