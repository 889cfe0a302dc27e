"""Checkpoints are whole or invisible, and nothing in them can run code."""

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from iris_cli import checkpoints
from iris_cli.checkpoints import Checkpoint, read_checkpoint, write_atomically, write_checkpoint
from iris_cli.digests import mark_of
from iris_cli.errors import RunError
from iris_cli.latest import latest_checkpoint

CPU = torch.device("cpu")


def checkpoint(number: int) -> Checkpoint:
    parameter = torch.nn.Parameter(torch.full((3,), float(number)))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    parameter.grad = torch.ones(3)
    optimizer.step()
    return Checkpoint({"w": parameter.detach().clone()}, {"tokenizer": optimizer.state_dict()}, {"number": number})


def number_of_latest(directory: Path) -> int:
    """Reads all of it."""
    path = latest_checkpoint(directory)
    assert path is not None
    found = read_checkpoint(path, CPU, optimizers=True)
    expected = checkpoint(found.state["number"])
    assert torch.equal(found.weights["w"], expected.weights["w"])
    assert torch.equal(found.optimizers["tokenizer"]["state"][0]["exp_avg"], torch.full((3,), 0.1))
    return found.state["number"]


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException) -> Iterator[Callable[[], bool]]:
    """Within it, the step-th call that touches the disk raises; hands out whether there was one."""
    calls = 0

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step:
                raise error
            return function(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch:
        for owner, name in (
            (Path, "mkdir"), (Path, "write_text"), (Path, "touch"), (Path, "rename"), (Path, "replace"),
            (checkpoints, "save_file"), (torch, "save"), (checkpoints, "flush"), (os, "replace"), (shutil, "rmtree"),
        ):  # fmt: skip
            patch.setattr(owner, name, wrap(getattr(owner, name)))
        yield lambda: calls >= step


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 7, checkpoint(7))
    assert path == tmp_path / "000007"
    assert number_of_latest(tmp_path) == 7
    assert read_checkpoint(path, CPU, optimizers=False).optimizers == {}


def test_nothing_saved_is_none(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "checkpoints") is None


def test_only_the_newest_stay(tmp_path: Path) -> None:
    for number in range(1, 6):
        write_checkpoint(tmp_path, number, checkpoint(number))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000004", "000005", "latest"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_at_any_step_of_writing_leaves_a_whole_latest_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    latest = 2
    for number in (1, 2):
        write_checkpoint(tmp_path, number, checkpoint(number))
    step = 0
    while True:
        step += 1
        with failing(monkeypatch, step, error) as failed, suppress(RunError, KeyboardInterrupt):
            write_checkpoint(tmp_path, latest + 1, checkpoint(latest + 1))
        if not failed():
            break
        assert number_of_latest(tmp_path) in (latest, latest + 1)
        latest = number_of_latest(tmp_path)
        write_checkpoint(tmp_path, latest + 1, checkpoint(latest + 1))
        latest += 1
        assert number_of_latest(tmp_path) == latest
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == [f"{latest - 1:06d}", f"{latest:06d}", "latest"]
    assert step > 12  # mkdir, two saves, a text, flushes, the mark, renames


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizers.pt", "state.json"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_a_cut_file_is_one_clear_error(tmp_path: Path, file: str, kept: float) -> None:
    path = write_checkpoint(tmp_path, 1, checkpoint(1))
    content = (path / file).read_bytes()
    (path / file).write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(RunError, match="the checkpoint cannot be read"):
        read_checkpoint(path, CPU, optimizers=True)


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizers.pt", "state.json"])
@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_a_missing_or_foreign_file_is_one_clear_error(tmp_path: Path, file: str, damage: str) -> None:
    path = write_checkpoint(tmp_path, 1, checkpoint(1))
    (path / file).unlink()
    if damage == "garbage":
        (path / file).write_bytes(bytes(range(256)) * 20)
    with pytest.raises(RunError, match="the checkpoint cannot be read"):
        read_checkpoint(path, CPU, optimizers=True)


class _Code:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_checkpoint_is_refused_and_never_run(tmp_path: Path, write: Callable[..., None]) -> None:
    path = write_checkpoint(tmp_path / "checkpoints", 1, checkpoint(1))
    write(_Code(tmp_path / "ran"), path / "optimizers.pt")
    (path / "done").write_text(mark_of(path))  # as its author would
    with pytest.raises(RunError, match="cannot be read"):
        read_checkpoint(path, CPU, optimizers=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizers.pt", "state.json", "done"])
def test_one_flipped_bit_is_one_clear_error(tmp_path: Path, file: str) -> None:
    for number in (1, 2):
        write_checkpoint(tmp_path, number, checkpoint(number))
    content = bytearray((tmp_path / "000002" / file).read_bytes())
    content[-3] ^= 1  # inside a number, where nothing else would notice
    (tmp_path / "000002" / file).write_bytes(content)

    with pytest.raises(RunError, match=rf"{file} is .*The older one 000001 is whole.*iris repair"):
        read_checkpoint(tmp_path / "000002", CPU, optimizers=True)


def test_a_checkpoint_of_an_earlier_version_has_no_checksums_and_is_read(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 1, checkpoint(1))
    (path / "done").write_bytes(b"")

    assert number_of_latest(tmp_path) == 1


def test_what_was_put_aside_is_neither_counted_nor_removed(tmp_path: Path) -> None:
    for number in (1, 2):
        write_checkpoint(tmp_path, number, checkpoint(number))
    (tmp_path / "000002").rename(tmp_path / "000002.damaged")
    for number in (2, 3):
        write_checkpoint(tmp_path, number, checkpoint(number))

    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["000002", "000002.damaged", "000003", "latest"]


@pytest.mark.parametrize("name", ["000009", "../elsewhere", "", "000001/.."])
def test_a_pointer_to_something_else_is_one_clear_error(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "checkpoints"
    write_checkpoint(directory, 1, checkpoint(1))
    write_checkpoint(tmp_path, 1, checkpoint(1))
    (directory / "latest").write_text(name)
    with pytest.raises(RunError, match="latest checkpoint is not whole"):
        latest_checkpoint(directory)


def test_an_older_checkpoint_may_be_put_in_force(tmp_path: Path) -> None:
    for number in (1, 2):
        write_checkpoint(tmp_path, number, checkpoint(number))
    (tmp_path / "latest").write_text("000001\n")
    assert number_of_latest(tmp_path) == 1
    write_checkpoint(tmp_path, 2, Checkpoint({}, {}, {"number": "again"}))
    assert json.loads((tmp_path / "000002" / "state.json").read_text()) == {"number": "again"}


def test_a_text_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "run.yaml", "old")
    for step in range(1, 4):
        with failing(monkeypatch, step, OSError("disk")), pytest.raises(OSError, match="disk"):
            write_atomically(tmp_path / "run.yaml", "new")
        assert (tmp_path / "run.yaml").read_text() == "old"
    write_atomically(tmp_path / "run.yaml", "new")
    assert (tmp_path / "run.yaml").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]
