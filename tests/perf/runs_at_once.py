"""How many runs an hour, and how long each, with k of them at once on this machine: throughput against latency.

    OMP_NUM_THREADS=1 python tests/perf/runs_at_once.py 1 2 4
    python tests/perf/runs_at_once.py 1 2 4 --device cuda --gpus-per-run 0.25 --preset published [--mps]

The same short runs each time, by `iris sweep --engine local`. With --mps they share the GPU through NVIDIA's
Multi-Process Service, which computes for several processes at a time where it otherwise goes from one to the next. It
reports, and never fails.
"""

import argparse
import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from iris_cli.sweep.drive import start
from iris_cli.sweep.manifest import Placement, Wanted, read_sweep
from iris_cli.sweep.states import read_state

FILE = """
preset: {preset}
game: Pong
dataset: data/pong-{{seed}}.zarr
run: runs/pong-{{seed}}
first:
  - collect: {{steps: 500}}
  - train-tokenizer: {{updates: 40}}
  - train-dynamics: {{updates: 40}}
  - train-actor-critic: {{updates: 4}}
"""


def measure(at_once: int, runs: int, device: str, share: float | None, preset: str) -> dict[str, float]:
    """Carry out some runs, so many at once: runs an hour of all together, and the mean minutes of one."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("p.yaml").write_text(FILE.format(preset=preset))
        start(
            Path("p.yaml"), Path("s"), games=None, seeds=str(runs), wanted=Wanted(device=device),
            placement=Placement(engine="local", parallel=at_once, gpus_per_run=share),
        )  # fmt: skip
        sweep = read_sweep(Path("s"))
        states = [state for entry in sweep.entries if (state := read_state(sweep, entry)) is not None]
    seconds = max(state.begun + state.seconds for state in states) - min(state.begun for state in states)
    minutes = [state.seconds / 60 for state in states]
    return {"at_once": at_once, "runs_per_hour": runs / seconds * 3600, "minutes_per_run": sum(minutes) / len(minutes)}


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """Within it, processes that begin use a Multi-Process Service of their own."""
    with tempfile.TemporaryDirectory() as folder:
        places = {"CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log"}
        for place in places.values():
            Path(place).mkdir()
        os.environ.update(places)
        subprocess.run(["nvidia-cuda-mps-control", "-d"], check=True)
        try:
            yield
        finally:
            subprocess.run(["nvidia-cuda-mps-control"], input="quit\n", text=True, check=True)
            for name in places:
                del os.environ[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("at_once", type=int, nargs="+")
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--gpus-per-run", type=float)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--mps", action="store_true")
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    with sharing() if asked.mps else contextlib.nullcontext():
        found = [measure(count, asked.runs, asked.device, asked.gpus_per_run, asked.preset) for count in asked.at_once]
    facts = {"load_before": load, "cores": len(os.sched_getaffinity(0)), "preset": asked.preset, "mps": asked.mps}
    print(json.dumps({**facts, "measured": found}))


if __name__ == "__main__":
    main()
