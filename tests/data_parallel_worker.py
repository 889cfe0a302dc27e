"""One of two processes that train as one, for test_data_parallel.py. Its argument is where the data and runs are."""

import json
import os
import sys
from pathlib import Path

import torch

from iris_cli import console, interrupts
from iris_cli.errors import ConfigError, Interrupted
from iris_cli.nn import data_parallel
from iris_cli.open_run import alone, open_together
from iris_cli.run import Run
from iris_cli.stages import training
from iris_cli.stages.train_dynamics import TrainDynamics, train_dynamics
from iris_cli.stages.train_tokenizer import TrainTokenizer, train_tokenizer

UPDATES = 5
DATA = {"iris": Path("data/pong.zarr"), "delta-iris": Path("data/pong.zarr"), "twm": Path("data/stacks.zarr")}
SETTINGS = {  # an odd number of rows for two processes; dropout where the agent has it; a pass of twm ends with one row
    "iris": ("tokenizer.batch_size=5", "dynamics.batch_size=3"),
    "delta-iris": ("tokenizer.batch_size=3", "dynamics.batch_size=3"),
    "twm": ("tokenizer.batch_size=7", "dynamics.batch_size=3"),
}


def train_both(name: str, agent: str, device: str = "cpu") -> None:
    """Tokenizer and dynamics of a new run, as two commands would."""
    data, where = DATA[agent], Path("runs") / name
    run = open_together(
        data, create=True, run=where, agent=agent, preset="tiny", assignments=SETTINGS[agent], device=device
    )
    alone(train_tokenizer, soothed(run, "tokenizer"), TrainTokenizer(updates=UPDATES))
    run = soothed(open_together(data, run=where, device=device), "dynamics")
    alone(train_dynamics, run, TrainDynamics(updates=UPDATES))


def soothed(run: Run, component: str) -> Run:
    """The run, with an Adam that does not magnify rounding: biases before a norm have no gradient but that."""
    for group in run.optimizer(component).param_groups:
        group["eps"] = 1e-3
    return run


def stop_after(run: Run, update: int) -> None:
    """Have a signal come to this process alone, once a stage has done so many updates."""
    interrupts.requested = lambda: run.progress is not None and run.progress.done >= update  # type: ignore[assignment]


def main(root: str) -> None:
    os.chdir(root)
    torch.set_num_threads(1)
    training.REPORT_EVERY = 1
    for agent in SETTINGS:
        train_both(f"two-{agent}", agent)

    run = open_together(DATA["iris"], run=Path("runs/stopped"))
    if not data_parallel.is_first():
        stop_after(run, UPDATES // 2)
    try:
        alone(train_dynamics, run, TrainDynamics(updates=UPDATES))
    except Interrupted as stop:
        if data_parallel.is_first():
            Path("stopped.txt").write_text(str(stop))

    run = open_together(DATA["iris"], run=Path("runs/stopped"), assignments=("tokenizer.batch_size=1",))
    try:
        train_tokenizer(run, TrainTokenizer(updates=1))
    except ConfigError as error:
        Path(f"refused-{os.environ['RANK']}.txt").write_text(str(error))
    run.close()
    Path(f"talked-{os.environ['RANK']}.json").write_text(json.dumps(talk(int(os.environ["RANK"]))))
    data_parallel.leave()


def talk(rank: int) -> dict[str, object]:
    """What the functions that exchange something give this process."""
    tensors = [torch.full((3, 2), float(rank + 1)), torch.tensor(10.0 * rank)]
    data_parallel.add_up(tensors)
    return {
        "sums": [tensor.tolist() for tensor in tensors],
        "gathered": data_parallel.gathered(torch.arange(rank + 1) + 10 * rank).tolist(),
        "anywhere": [data_parallel.anywhere(rank == 1), data_parallel.anywhere(False)],
        "alike": [data_parallel.alike(7), data_parallel.alike(rank)],
        "first": data_parallel.of_the_first(rank + 5),
    }


if __name__ == "__main__":
    main(sys.argv[1])
    console.leave(0)  # as the command does
