"""`iris verify` finds every damage to a run; `iris repair` goes back to its newest whole checkpoint, and says so."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result

from iris_cli.run import Run

Command = Callable[..., Result]
RUN = Path("runs/pong")
CPU = torch.device("cpu")


@pytest.fixture
def run(workplace: Path) -> Path:
    """A run with two checkpoints: 000002 and 000003."""
    opened = Run.open(RUN, device=CPU, training=True)
    opened.updates["tokenizer"] = 7
    opened.save()
    opened.close()
    return RUN


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def contents(path: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_a_run_as_it_was_written_is_whole(run: Path, command: Command) -> None:
    result = command("verify", run)

    assert result.exit_code == 0, result.output
    assert "runs/pong: whole" in result.stdout
    assert result.stdout.count("as it was written") == 2
    assert "Nothing is to be done in runs/pong" in command("repair", run).stdout


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizers.pt", "state.json", "done"])
def test_a_damaged_newest_checkpoint_is_named_and_the_run_goes_back(run: Path, command: Command, file: str) -> None:
    flip(run / "checkpoints" / "000003" / file)

    trained = command("train-tokenizer", "data/pong.zarr", "--updates", "1")
    assert trained.exit_code == 1
    assert f"{file} is" in trained.stderr
    assert "The older one 000002 is whole; to go back to it: iris repair runs/pong" in trained.stderr
    verified = command("verify", run)
    assert verified.exit_code == 1
    assert "1 of" in verified.stdout
    assert "checkpoints/000003" in verified.stdout
    before = contents(run)
    planned = command("repair", run, "--dry-run")
    assert "Nothing is" not in planned.stdout
    assert contents(run) == before

    repaired = command("repair", run)

    assert "returned to checkpoint 000002" in repaired.stdout.lower()
    assert "put checkpoint 000003 aside as 000003.damaged" in repaired.stdout.lower()
    assert command("verify", run).exit_code == 0
    assert command("train-tokenizer", "data/pong.zarr", "--updates", "1").exit_code == 0
    assert Run.open(RUN, device=CPU).updates["tokenizer"] == 2  # 1, as of 000002, and this one
    assert (run / "checkpoints" / "000003.damaged" / file).exists()


def test_what_was_found_of_weights_that_are_gone_no_longer_counts(run: Path, command: Command) -> None:
    reports = run / "reports"
    reports.mkdir(exist_ok=True)
    for number in ("000002", "000003"):
        (reports / f"evaluate-{number}.json").write_text(json.dumps({"checkpoint": number}))
    later = {"checkpoint": "000002", "updates": {"tokenizer": 9}}  # a pipeline evaluates between two checkpoints
    (reports / "evaluate-then.json").write_text(json.dumps(later))
    flip(run / "checkpoints" / "000003" / "weights.safetensors")

    said = command("repair", run).stdout

    assert "updates of tokenizer" in said
    kept = ["evaluate-000002.json", "evaluate-000003.json.aside", "evaluate-then.json.aside"]
    assert sorted(path.name for path in reports.iterdir()) == kept


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda run: (run / "checkpoints/latest").write_text("000009\n"), "latest"),
        (lambda run: (run / "checkpoints/latest").unlink(), "latest"),
        (lambda run: (run / "checkpoints/000003/done").unlink(), "latest"),
        (lambda run: (run / "checkpoints/latest").write_bytes(b"\xff\xfe/../.."), "latest"),
    ],
)
def test_a_pointer_to_nothing_whole_is_mended(
    run: Path, command: Command, damage: Callable[[Path], object], part: str
) -> None:
    damage(run)
    assert command("verify", run).exit_code == 1

    repaired = command("repair", run)

    assert repaired.exit_code == 0, repaired.output
    assert "returned to checkpoint 00000" in repaired.stdout.lower()
    assert command("verify", run).exit_code == 0
    Run.open(RUN, device=CPU, training=True).close()


def test_a_run_without_a_whole_checkpoint_is_left_as_it_is(run: Path, command: Command) -> None:
    for number in ("000002", "000003"):
        flip(run / "checkpoints" / number / "state.json")
    before = contents(run / "checkpoints")

    repaired = command("repair", run)

    assert repaired.exit_code == 1
    assert "no checkpoint is whole" in repaired.stderr
    assert contents(run / "checkpoints") == before


def test_nobody_repairs_a_run_that_another_trains(run: Path, command: Command) -> None:
    flip(run / "checkpoints" / "000003" / "state.json")
    (run / "checkpoints/latest").write_text("000002\n")
    training = Run.open(RUN, device=CPU, training=True)

    repaired = command("repair", run)

    assert repaired.exit_code == 1
    assert f"process {os.getpid()} is writing to the run" in repaired.stderr
    training.close()


def test_what_is_neither_is_refused(workplace: Path, command: Command) -> None:
    for name in ("verify", "repair"):
        result = command(name, "data")
        assert result.exit_code == 1
        assert "neither a dataset nor a run" in result.stderr


def test_a_damaged_dataset_is_verified_and_repaired_by_name(workplace: Path, command: Command) -> None:
    flip(Path("data/pong.zarr/observations/c.0.0.0.0"))

    verified, repaired = command("verify", "data/pong.zarr"), command("repair", "data/pong.zarr")

    assert (verified.exit_code, repaired.exit_code) == (1, 1)
    assert "observations" in verified.stdout
    assert "cannot be brought back" in repaired.stderr
