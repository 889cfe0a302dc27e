"""What a sweep is made of: games, seeds and settings that fit, a folder that says so, one line where they do not."""

import os
import shlex
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result

from iris_cli.cli import cli
from iris_cli.errors import ConfigError, RunError
from iris_cli.learn.scores import RANDOM_AND_HUMAN
from iris_cli.sweep import drive
from iris_cli.sweep.local import places
from iris_cli.sweep.manifest import Placement, Sweep, Wanted, games_of, new_sweep, read_sweep, seeds_of, write_sweep
from iris_cli.sweep.slurm import submission, write_script

Command = Callable[..., Result]
SWEEP: Any = cli.commands["sweep"]
FILE = """
preset: tiny
dataset: data/{game}-{seed}.zarr
run: runs/{game}-{seed}
first: [{collect: {steps: 20}}, {train-tokenizer: {updates: 5}}]
"""
SHARED = FILE.replace("{game}-{seed}", "one")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.yaml").write_text(FILE)


def made(games: str = "Pong,ms_pacman", seeds: str = "2", **placement: object) -> Sweep:
    """A sweep in the folder `s`."""
    wanted = Wanted(device="cpu", preset="tiny", assignments=("collect.steps=30",), cpus_per_run=2)
    sweep = new_sweep(
        Path("p.yaml"), Path("s"), games=games, seeds=seeds, wanted=wanted, placement=Placement(**placement)
    )
    write_sweep(sweep, Path("p.yaml").read_text())
    return sweep


def test_all_games_are_the_26_of_atari_100k() -> None:
    assert games_of("all") == sorted(RANDOM_AND_HUMAN)


@pytest.mark.parametrize(("text", "seeds"), [("5", [0, 1, 2, 3, 4]), ("0,3", [0, 3]), ("7,", [7]), ("1", [0])])
def test_seeds_are_a_number_or_a_list(text: str, seeds: list[int]) -> None:
    assert seeds_of(text) == seeds


def test_the_folder_of_a_sweep_holds_all_of_it() -> None:
    sweep = made(engine="local", parallel=3)

    assert read_sweep(Path("s")) == sweep
    assert [entry.name for entry in sweep.entries] == ["pong-0", "pong-1", "mspacman-0", "mspacman-1"]
    assert sweep.plan(sweep.entry("mspacman-1")).environment.name == "MsPacman"
    assert sweep.command(sweep.entry("pong-1")) == [
        "run", "s/pipeline.yaml", "--game", "Pong", "--seed", "1", "--preset", "tiny", "--device", "cpu",
        "--set", "collect.steps=30",
    ]  # fmt: skip


def test_a_sweep_that_was_moved_with_its_runs_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    made()
    (tmp_path / "s").rename(tmp_path / "there" / "s")

    assert read_sweep(Path("there/s")).root == tmp_path / "there"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--games Pnog", ["Pnog", "Did you mean Pong"]),
        ("--games ,", ["no game", "--games all"]),
        ("--games pong,Pong", ["pong-0 is named twice"]),
        ("--games Pong --seeds x", ["'x' are no seeds", "--seeds 5"]),
        ("--games Pong --seeds 0", ["--seeds"]),
        ("--games Pong --seeds 1,1", ["pong-1 is named twice"]),
        ("--games Pong --seeds 4294967296,", ["seed is 4294967296"]),
        ("--seeds 1", ["names no game"]),
        ("--games Pong --agent siri", ["siri"]),
        ("--games Pong --device cuda:1", ["cuda:1", "engine's choice"]),
        ("--games Pong --set collect.stpes=3", ["stpes", "Did you mean 'steps'"]),
        ("--games Pong --gpus-per-run 1.5", ["1.5", "below 1 or whole"]),
        ("--games Pong --engine slurm --address a:1", ["only Ray has an address"]),
        ("--games Pong --address ray://a:1", ["ray://a:1", "HOST:PORT"]),
        ("--games Pong --engine local --gpus-per-run 0.5", ["0.5 GPUs"]),
        ("--games Pong,Qbert --set run=runs/x", ["pong-0 and pong-1 would share the run runs/x", "--set run="]),
        ("--games Pong --set dataset=data/x.zarr", ["same dataset data/x.zarr", "--set dataset="]),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_before_anything_is_written(
    command: Command, tmp_path: Path, options: str, said: list[str]
) -> None:
    device = [] if "--device" in options else ["--device", "cpu"]

    result = command("sweep", "p.yaml", *options.split(), *device)

    assert result.exit_code == 1
    assert len(result.output.splitlines()) == 1, result.output
    assert all(words in result.output for words in said), result.output
    assert [path.name for path in tmp_path.rglob("*")] == ["p.yaml"]


def test_a_wrong_pipeline_is_refused_with_its_line(command: Command, tmp_path: Path) -> None:
    Path("p.yaml").write_text(FILE.replace("collect:", "colect:"))

    result = command("sweep", "p.yaml", "--games", "Pong")

    assert result.exit_code == 1
    assert "p.yaml:5: unknown stage 'colect'" in result.output.replace("In ", "") or "p.yaml:5" in result.output
    assert [path.name for path in tmp_path.rglob("*")] == ["p.yaml"]


def test_without_ray_one_line_says_what_to_install(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "iris_cli.sweep.on_ray", raising=False)

    result = command("sweep", "p.yaml", "--games", "Pong", "--device", "cpu")

    assert result.exit_code == 1
    assert len(result.output.splitlines()) == 1
    assert "pip install 'iris-wm[cluster]'" in result.output
    assert [path.name for path in tmp_path.rglob("*")] == ["p.yaml"]


def test_where_no_cluster_answers_one_line_says_so(command: Command) -> None:
    pytest.importorskip("ray", reason="an extra")
    with socket.socket() as taken:  # and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"

        result = command("sweep", "p.yaml", "--games", "Pong", "--device", "cpu", "--address", address)

    assert result.exit_code == 1
    assert f"the Ray cluster cannot be reached (Connection refused). In {address}." in result.output


@pytest.mark.parametrize("changed", [["--seeds", "3"], ["--set", "collect.steps=9"], ["--cpus-per-run", "2"]])
def test_another_sweep_never_goes_on_in_the_same_folder(command: Command, changed: list[str]) -> None:
    asked = ["sweep", "p.yaml", "--games", "Pong", "--device", "cpu", "--engine", "slurm", "--seeds", "2"]
    assert command(*asked).exit_code == 0

    again, other = command(*asked), command(*asked, *changed)

    assert again.exit_code == 0, again.output
    assert other.exit_code == 1
    assert "iris sweep resume runs/sweeps/p" in other.output


def test_a_folder_that_is_no_sweep_or_a_spoiled_one_is_refused(command: Command) -> None:
    made()
    Path("s/sweep.yaml").write_text(Path("s/sweep.yaml").read_text().replace("pong-0", "../pong-0"))

    for name, said in (("nowhere", "no such sweep"), (".", "no sweep here"), ("s", "cannot be read")):
        result = command("sweep", "status", name)
        assert result.exit_code == 1
        assert said in result.output
        assert len(result.output.splitlines()) == 1


def test_one_process_at_a_time_drives_a_sweep() -> None:
    sweep = made()

    with drive._driving(sweep), pytest.raises(RunError, match="is writing to the sweep"), drive._driving(sweep):
        raise AssertionError


# Room on this machine, and in a job


@pytest.mark.parametrize(
    ("share", "parallel", "expected"),
    [
        (None, None, ["3", "5"]),
        (0.5, None, ["3", "5", "3", "5"]),
        (0.25, 3, ["3", "5", "3"]),
        (2.0, None, ["3,5"]),
        (0.0, 2, [None, None]),
    ],
)
def test_gpus_are_shared_evenly(share: float | None, parallel: int | None, expected: list[str | None]) -> None:
    sweep = made(engine="local", gpus_per_run=share, parallel=parallel)

    assert [place.gpus for place in places(sweep, ["3", "5"])] == expected


def test_more_gpus_than_there_are_are_refused() -> None:
    with pytest.raises(ConfigError, match="4 GPUs, but there are 2"):
        places(made(gpus_per_run=4.0), ["0", "1"])


def test_a_job_array_has_a_task_for_each_gpu_and_as_many_runs_as_share_it() -> None:
    sweep = made(engine="slurm", gpus_per_run=0.5, parallel=3)

    script = write_script(sweep, sweep.entries[1:]).read_text()

    assert "#SBATCH --array=0-1%2\n" in script  # three runs, two of them on a GPU; at most three, so two GPUs
    assert "#SBATCH --gres=gpu:1\n" in script
    assert "#SBATCH --cpus-per-task=4\n" in script
    assert "names=(pong-1 mspacman-0 mspacman-1)\nat_once=2\n" in script
    assert "export OMP_NUM_THREADS=2\n" in script
    assert submission(sweep, Path("array.sh")).startswith("sbatch --chdir=")


# The commands


@pytest.mark.parametrize("name", sorted(SWEEP.commands))
def test_every_command_of_a_sweep_has_an_example_that_parses_and_says_what_its_options_are_for(name: str) -> None:
    command = SWEEP.commands[name]
    examples = [line.partition("iris sweep ")[2] for line in (command.help or "").splitlines() if "iris sweep " in line]

    assert any(example.startswith(f"{name} ") for example in examples)
    for example in examples:
        if example.startswith(f"{name} "):
            command.make_context(name, shlex.split(example)[1:]).close()
    assert [option.name for option in command.params if isinstance(option, click.Option) and not option.help] == []


def test_status_without_a_folder_is_of_the_newest_sweep(command: Command) -> None:
    assert "there is no sweep yet" in command("sweep", "status").output
    for age, name in enumerate(("newer", "older")):
        write_sweep(replaced := new_sweep(
            Path("p.yaml"), Path("runs/sweeps") / name, games="Pong", seeds="1", wanted=Wanted(), placement=Placement()
        ), FILE)  # fmt: skip
        os.utime(replaced.directory / "sweep.yaml", (1e9 - age, 1e9 - age))

    assert "runs/sweeps/newer" in command("sweep", "status").output


def test_a_file_alone_starts_a_sweep(command: Command) -> None:
    assert command("sweep", "p.yaml", "--games", "Pnog").output == command(
        "sweep", "start", "p.yaml", "--games", "Pnog"
    ).output  # fmt: skip
    assert "status" in command("sweep", "--help").output
