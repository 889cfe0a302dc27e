"""Who worked on a run and with what command, and what its pipeline is going to do."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result

from iris_cli import invocation
from iris_cli.errors import RunError
from iris_cli.history import Note, read_plan, starts
from iris_cli.machine import cores, machine, memory
from iris_cli.pipeline import execute
from iris_cli.plan import make_plan
from iris_cli.replay.lock import holder, take_lock
from iris_cli.version import VERSION

Command = Callable[..., Result]
PIPELINE = """
preset: tiny
game: "toy_game:Toy"
dataset: data/p.zarr
run: runs/p
first: [{collect: {steps: 24}}]
rounds: 2
round: [{train-tokenizer: {updates: 3}}]
then: [{evaluate: {episodes: 2}}]
"""


def test_every_command_that_changes_a_run_is_a_line_with_its_words_and_machine(
    command: Command, workplace: Path
) -> None:
    words = [
        "train-tokenizer",
        "data/breakout.zarr",
        "--preset",
        "tiny",
        "--updates",
        "1",
        "--set",
        "dynamics.layers=1",
    ]

    command(*words)
    command("train-tokenizer", "data/breakout.zarr", "--updates", "2")

    first, second = starts(Path("runs/breakout"))
    assert first.command == "iris " + " ".join(words)
    assert second.command == "iris train-tokenizer data/breakout.zarr --updates 2"
    assert first.machine["device"] == "cpu"
    assert first.machine["cores"] == cores()
    assert first.versions == {"iris-wm": VERSION, "torch": str(torch.__version__)}
    assert first.time <= second.time
    assert invocation.typed() is None  # the command is over


def test_words_with_spaces_are_quoted_as_a_shell_wants_them() -> None:
    invocation.note(["run", "my file.yaml", "--set", "a='b'"])
    try:
        assert invocation.typed() == """iris run 'my file.yaml' --set 'a='"'"'b'"'"''"""
    finally:
        invocation.note(None)


def test_looking_at_a_run_leaves_no_line(command: Command, workplace: Path) -> None:
    for words in (["watch", "runs/pong", "--once"], ["info", "runs/pong"], ["report", "runs/pong", "--no-pictures"]):
        assert command(*words).exit_code == 0
    refused = command("train-dynamics", "data/empty.zarr", "--run", "runs/pong", "--log", "tensorboard")
    assert refused.exit_code == 1

    assert starts(Path("runs/pong")) == []
    assert not Path("runs/pong/tensorboard").exists()


def test_in_a_python_program_there_is_no_command(tmp_path: Path) -> None:
    note = Note(tmp_path, torch.device("cpu"))
    assert starts(tmp_path) == []  # nothing was done yet

    note.saved(0)
    note.saved(9)

    [start] = starts(tmp_path)
    assert start.command is None


@pytest.mark.parametrize("line", ['{"time": "x"}', "[]", '{"time": 1, "command": 7}', "{", '{"command": "iris"}'])
def test_lines_of_another_kind_are_passed_over(tmp_path: Path, line: str) -> None:
    (tmp_path / "history.jsonl").write_text(line + "\n" + '{"time": 1, "command": "iris", "machine": 3}\n')

    assert [start.command for start in starts(tmp_path)] == ["iris"]


@pytest.mark.pipeline
def test_a_pipeline_keeps_its_file_and_its_stages_and_notes_only_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(repository / "tests")
    Path("p.yaml").write_text(PIPELINE)

    for _ in range(2):
        execute(make_plan(Path("p.yaml")), device="cpu")

    plan = read_plan(Path("runs/p"))
    assert plan is not None
    assert plan["text"] == PIPELINE
    assert plan["stages"] == [
        ["first", None, "collect", 24], ["round", 1, "train-tokenizer", 3], ["round", 2, "train-tokenizer", 3],
        ["then", None, "evaluate", 2],
    ]  # fmt: skip
    assert len(starts(Path("runs/p"))) == 1  # the second found everything done


@pytest.mark.parametrize("text", ["", "[]", "{", '{"stages": 3}', "[" * 100_000])
def test_a_plan_that_is_none_is_not_there(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)

    assert read_plan(tmp_path) is None


def test_a_lock_names_its_holder_until_it_is_given_back(tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    assert holder(file) is None

    lock = take_lock(file, what="run", where=tmp_path, error=RunError)
    assert holder(file) == os.getpid()
    lock.release()

    assert holder(file) is None
    take_lock(file, what="run", where=tmp_path, error=RunError).release()  # it is free


def test_looking_at_a_lock_does_not_take_it(tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    file.write_text(str(os.getpid()))

    assert holder(file) == os.getpid()
    take_lock(file, what="run", where=tmp_path, error=RunError).release()


def test_the_machine_is_plain_values() -> None:
    facts = machine(torch.device("cpu"))

    assert json.loads(json.dumps(facts)) == facts
    assert facts["memory_gb"] > 0
    assert 0 < memory()[1] <= memory()[0]


def test_a_line_that_was_cut_short_does_not_spoil_the_next(tmp_path: Path) -> None:
    Note(tmp_path, torch.device("cpu")).saved(0)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"time": 17952')  # a kill, or a full disk

    Note(tmp_path, torch.device("cpu")).saved(0)

    assert len(starts(tmp_path)) == 2
