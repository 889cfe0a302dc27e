"""Updates per second of one process and of two, on a CPU: does data-parallel training pay on this machine?

    python tests/perf/data_parallel.py --out tests/perf/results/NAME.json       about 3 minutes on two idle cores

Measured are the real loop and losses of IRIS on random frames, at the published size with a part of its batch, and with
the small preset: 1 process with 1 thread, 1 with 2, 2 with 1 each. The gradients that two processes exchange are as
large for a part of a batch as for the whole, so `at_whole_batch` scales the rest only. Not a test: nothing fails.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from iris_cli.agents import build, presets_for
from iris_cli.envs.spec import training_spec
from iris_cli.learn.fit import Steps, fit, learners_of
from iris_cli.learn.optimizers import make_optimizer
from iris_cli.learn.visits import Visits
from iris_cli.learn.watch import Watch
from iris_cli.machine import commit, machine, processor
from iris_cli.nn import data_parallel
from iris_cli.nn.lpips import LPIPS
from iris_cli.nn.precision import compute_dtype
from iris_cli.replay.dataset import Dataset
from iris_cli.replay.segments import Replay

ROOT = Path(__file__).resolve().parents[2]
WAYS = ((1, 1), (1, 2), (2, 1))  # processes, threads of each
CPU = torch.device("cpu")
STEPS = 500


class Subject(NamedTuple):
    """What is trained; `rows` of its batch are enough for a measurement."""

    preset: str
    component: str
    rows: int | None


SUBJECTS = (
    Subject("published", "tokenizer", 32),
    Subject("published", "dynamics", 16),
    Subject("small", "tokenizer", None),
    Subject("small", "dynamics", None),
)


def make_data(path: Path) -> None:
    """A dataset of random frames, in episodes of 100 steps."""
    draws, lengths = np.random.default_rng(0), [100] * (STEPS // 100)
    over = np.isin(np.arange(STEPS), np.cumsum(lengths) - 1)
    environment = training_spec("Pong").to_mapping()
    with Dataset.create(path, environment=environment, action_meanings=[f"ACTION{i}" for i in range(6)]) as dataset:
        dataset.append(
            observations=draws.integers(0, 256, (STEPS, 64, 64, 3), np.uint8), actions=draws.integers(0, 6, STEPS),
            rewards=over.astype(np.float32), terminations=over, truncations=np.zeros(STEPS, bool),
            episode_lengths=lengths, episode_ids=range(len(lengths)), writer="random",
        )  # fmt: skip


def measure(subject: Subject, data: Path, seconds: float) -> dict[str, Any]:
    """Train for about so long, after an update to warm up."""
    torch.manual_seed(0)
    config = presets_for("iris")[subject.preset]
    agent, section = build("iris", config, 6).eval(), getattr(config, subject.component)
    module = getattr(agent, subject.component).train()
    replay, draws, rows = Replay(CPU), torch.Generator().manual_seed(0), subject.rows or section.batch_size
    replay.refresh(Dataset.open(data))
    replay.set_tokens(torch.randint(config.tokenizer.codes, (STEPS, 16), generator=draws))
    perceptual = LPIPS().train() if (subject.preset, subject.component) == ("published", "tokenizer") else None
    batch: Callable[..., Any] = getattr(agent, f"{subject.component}_batch")
    begun, done = 0.0, 0

    def losses(drawn: Any) -> Steps:
        if subject.component == "tokenizer":
            return agent.tokenizer_losses(drawn, perceptual=perceptual)
        return agent.dynamics_losses(drawn)

    def keep_going(number: int) -> bool:
        nonlocal begun, done
        done = number - 1
        begun = begun or time.perf_counter()
        return not data_parallel.anywhere(done >= 2 and time.perf_counter() - begun >= seconds)

    fit(
        lambda: batch(replay, draws, rows, visits=Visits([])), losses,
        learners_of(module, make_optimizer(module, section), section.clip_norm),
        watch=Watch(lagging=False, on_growth=lambda growth: None), start=0, updates=100_000,
        after_update=getattr(module, "update_codebook", lambda: None), report_every=1_000_000,
        on_report=lambda number, means: None, keep_going=keep_going,
    )  # fmt: skip
    each = (time.perf_counter() - begun) / done
    exchange = exchange_seconds([parameter.detach().clone() for parameter in module.parameters()])
    return {
        **subject._asdict(), "rows": rows, "whole_batch": section.batch_size, "updates": done,
        "updates_per_second": 1 / each, "exchange_seconds": exchange,
        "at_whole_batch": 1 / ((each - exchange) * section.batch_size / rows + exchange),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "precision": str(compute_dtype(section.precision, CPU)),
    }  # fmt: skip


def exchange_seconds(gradients: list[torch.Tensor]) -> float:
    """What it takes to add up gradients over all processes; 0 for one."""
    if data_parallel.processes() == 1:
        return 0.0
    times = []
    for _ in range(5):
        data_parallel.anywhere(False)
        begun = time.perf_counter()
        data_parallel.add_up(gradients)
        times.append(time.perf_counter() - begun)
    return sorted(times)[2]


def work(data: Path, seconds: float) -> None:
    """One of the processes: measure everything; the first prints it."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if int(os.environ["WORLD_SIZE"]) > 1:
        data_parallel.join(CPU, 300)
    found = [measure(subject, data, seconds) for subject in SUBJECTS]
    if data_parallel.is_first():
        print(json.dumps(found))
    data_parallel.leave()


def start(processes: int, threads: int, data: Path, seconds: float) -> list[dict[str, Any]]:
    """Have so many processes measure."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        subprocess.Popen(
            [sys.executable, __file__, "--work", str(data), "--seconds", str(seconds)], stdout=subprocess.PIPE,
            env={
                **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "10000",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes), "RANK": str(rank), "LOCAL_RANK": str(rank),
            },
        )
        for rank in range(processes)
    ]  # fmt: skip
    outputs = [process.communicate()[0] for process in started]
    assert all(process.returncode == 0 for process in started)
    return json.loads(outputs[0])


def table(results: list[dict[str, Any]]) -> str:
    """Updates per second of the whole batch, in a table for a README."""
    lines = ["| | " + " | ".join(f"{p} x {t} thread{'s' * (t > 1)}" for p, t in WAYS) + " | exchange |"]
    lines.append("|---|" + "---:|" * (len(WAYS) + 1))
    for number, subject in enumerate(SUBJECTS):
        found = [result["subjects"][number] for result in results]
        rates = " | ".join(f"{each['at_whole_batch']:.4g}" for each in found)
        exchange = found[-1]["exchange_seconds"]
        lines.append(f"| {subject.preset} {subject.component} | {rates} | {1000 * exchange:.3g} ms |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement, at least two updates")
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work is not None:
        work(given.work, given.seconds)
        return
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "random.zarr"
        make_data(data)
        results = [
            {"processes": processes, "threads": threads, "subjects": start(processes, threads, data, given.seconds)}
            for processes, threads in WAYS
        ]
    result = {
        "machine": machine(CPU), "device": processor(), "commit": commit(),
        "torch": str(torch.__version__), "date": time.strftime("%Y-%m-%d"),
        "seconds": time.perf_counter() - begun, "results": results,
    }  # fmt: skip
    if given.out is not None:
        given.out.write_text(json.dumps(result, indent=1) + "\n")
    print("Updates per second (processes x threads of each)\n")
    print(table(results))


if __name__ == "__main__":
    main()
