"""How the runs of a sweep stand, from files alone: locks, states, the wish to stop, the table, the sum at the end."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

from iris_cli.errors import IrisError, RunError
from iris_cli.sweep import drive
from iris_cli.sweep.engine import Ended
from iris_cli.sweep.manifest import Entry, Placement, Sweep, Wanted, read_sweep, runs_in, write_sweep
from iris_cli.sweep.process import is_to_stop
from iris_cli.sweep.states import (
    DONE,
    FAILED,
    RUNNING,
    State,
    ask_to_stop,
    held,
    is_held,
    read_state,
    write_state,
)
from iris_cli.sweep.table import Board

Command = Callable[..., Result]
STATE = State(state=RUNNING, node="here", process=1, starts=1, begun=0.0)


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Three runs of Pong, none begun, in the folder `s` of the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(drive, "PICTURED", 0)
    entries = tuple(Entry(f"pong-{seed}", "Pong", seed, Path("runs") / f"pong-{seed}") for seed in range(3))
    made = Sweep(
        directory=tmp_path / "s", root=tmp_path, source="p.yaml", wanted=Wanted(device="cpu"),
        placement=Placement(engine="local"), entries=entries,
    )  # fmt: skip
    write_sweep(made, "preset: tiny\nrun: runs/{game}-{seed}\nfirst: [{train-tokenizer: {updates: 1}}]\n")
    return made


class Scripted:
    """An engine that starts nothing: runs end as they are told to, one after the other."""

    room: int | None = 2
    words = "nowhere"

    def __init__(self, sweep: Sweep, ends: dict[str, list[int | None]]) -> None:
        self.sweep, self.ends = sweep, ends
        self.begun: list[str] = []
        self.under_way: list[str] = []

    def start(self, name: str) -> None:
        assert len(self.under_way) < 2
        self.begun.append(name)
        self.under_way.append(name)

    def ended(self, seconds: float) -> list[Ended]:
        if not self.under_way:
            return []
        name = self.under_way.pop(0)
        code = self.ends[name].pop(0)
        if code == 0:
            write_state(self.sweep, self.sweep.entry(name), replace(STATE, state=DONE))
        return [Ended(name, code, "NodeDiedError" if code is None else "")]

    def close(self) -> None:
        return


def carried_out(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, ends: dict[str, list[int | None]]
) -> tuple[Scripted, str | None]:
    """The engine, and what was raised."""
    engine = Scripted(sweep, ends)
    monkeypatch.setattr(drive, "Local", lambda sweep: engine)
    try:
        drive.resume(sweep.directory)
    except (IrisError, drive.Interrupted) as error:
        return engine, str(error)
    return engine, None


def test_one_works_on_a_run_and_others_wait_for_it(sweep: Sweep) -> None:
    entry, order = sweep.entries[0], []

    def second() -> None:
        with held(sweep, entry):
            order.append("second")

    with held(sweep, entry):
        waiting = threading.Thread(target=second)
        waiting.start()
        assert is_held(sweep, entry)
        assert not is_held(sweep, sweep.entries[1])
        time.sleep(0.3)
        order.append("first")
    waiting.join()

    assert order == ["first", "second"]
    assert not is_held(sweep, entry)


def test_who_still_works_on_a_run_is_named(sweep: Sweep) -> None:
    with held(sweep, sweep.entries[0]):
        write_state(sweep, sweep.entries[0], STATE)
        with (
            pytest.raises(RunError, match="process 1 on here works on pong-0"),
            held(sweep, sweep.entries[0], patience=0.1),
        ):
            raise AssertionError


def test_a_state_that_cannot_be_read_counts_as_none(sweep: Sweep) -> None:
    (sweep.directory / "states" / "pong-0.json").write_text('{"state": ')

    assert read_state(sweep, sweep.entries[0]) is None


def test_what_says_that_it_is_running_without_a_lock_has_died(sweep: Sweep) -> None:
    write_state(sweep, sweep.entries[0], STATE)
    write_state(sweep, sweep.entries[1], replace(STATE, state=FAILED, error="it broke"))

    rows = Board(sweep).rows()
    with held(sweep, sweep.entries[0]):
        running = Board(sweep).rows()

    assert [row.state for row in rows] == ["died", "failed", "waiting"]
    assert rows[1].error == "it broke"
    assert running[0].state == "running"


def test_a_row_says_round_stage_and_score(sweep: Sweep) -> None:
    run = sweep.root / sweep.entries[0].run
    run.mkdir(parents=True)
    plan = [["round", 1, "collect", 5], ["round", 1, "evaluate", 2], ["round", 2, "collect", 5]]
    (run / "plan.json").write_text(json.dumps({"stages": plan}))
    board = Board(sweep)
    write_state(sweep, sweep.entries[0], STATE)

    said = [board.rows()[0]]
    for stage, figures in (("collect", {}), ("evaluate", {"mean_score": 3.5}), ("collect", {})):
        line = {"event": "stage", "stage": stage, "seconds": 1.0, "figures": figures}
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        said.append(board.rows()[0])

    assert [row.stage for row in said] == [
        "round 1/2, collect", "round 1/2, evaluate", "round 2/2, collect", "all 3 stages",
    ]  # fmt: skip
    assert [row.score for row in said] == [None, None, 3.5, 3.5]


def test_a_table_of_many_shows_those_under_way_first(sweep: Sweep) -> None:
    write_state(sweep, sweep.entries[2], replace(STATE, state=FAILED, error="it broke"))

    [section] = Board(sweep).report(rows=1).sections

    assert section.title == "s: 3 runs, 1 failed, 2 waiting; 1 of them:"
    assert [row[0] for row in section.rows] == ["pong-2"]


# Driving


def test_a_worker_that_dies_is_replaced_a_few_times_and_an_error_is_not_tried_again(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    (sweep.directory / "logs" / "pong-1.log").write_text("nonsense\nError: no such thing.\n")

    engine, error = carried_out(
        sweep, monkeypatch, {"pong-0": [-9, None, 137, -11], "pong-1": [1], "pong-2": [-9, 130, 0]}
    )

    assert [engine.begun.count(entry.name) for entry in sweep.entries] == [4, 1, 3]
    assert error is not None
    assert "2 of 3 runs failed" in error
    said = capsys.readouterr().out
    assert "pong-0: its worker or node died (NodeDiedError); it goes on (retry 2 of 3)." in said
    assert "pong-1: failed: Error: no such thing." in said
    states = [read_state(sweep, entry) for entry in sweep.entries]
    assert [state and state.state for state in states] == [FAILED, FAILED, DONE]
    none = dict.fromkeys(("done", "running", "failed", "died", "gone", "stopped", "waiting"), 0)
    facts = json.loads(command("sweep", "status", "s", "--json").stdout)
    assert facts["counts"] == {**none, "failed": 2, "gone": 1}  # a scripted run leaves no directory
    assert facts["runs"][2]["error"] == "its directory is gone; resume begins anew"
    assert "its directory is gone;" in command("sweep", "status", "s").stdout
    (sweep.root / sweep.entries[2].run).mkdir(parents=True)
    (sweep.root / sweep.entries[2].run / "run.yaml").touch()
    facts = json.loads(command("sweep", "status", "s", "--json").stdout)
    assert facts["counts"] == {**none, "failed": 2, "done": 1}


def test_what_is_complete_is_left_alone_and_a_run_that_is_gone_is_made_again(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    for entry in sweep.entries[:2]:
        write_state(sweep, entry, replace(STATE, state=DONE))
    (sweep.root / "runs" / "pong-0").mkdir(parents=True)
    (sweep.root / "runs" / "pong-0" / "run.yaml").touch()

    engine, _ = carried_out(sweep, monkeypatch, {"pong-1": [0], "pong-2": [0]})

    assert engine.begun == ["pong-1", "pong-2"]


def test_a_stop_keeps_back_what_waits_and_is_taken_back_by_going_on(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drive, "interrupts", type("Asked", (), {"requested": staticmethod(lambda: True)}))

    stopped, said = carried_out(sweep, monkeypatch, {})
    monkeypatch.undo()
    monkeypatch.chdir(sweep.root)
    went_on, _ = carried_out(sweep, monkeypatch, {entry.name: [0] for entry in sweep.entries})

    assert stopped.begun == []
    assert said is not None
    assert "iris sweep resume s goes on" in said
    assert went_on.begun == [entry.name for entry in sweep.entries]
    assert not is_to_stop(sweep.directory)


def test_stop_waits_until_nobody_works(sweep: Sweep, command: Command) -> None:
    def works() -> None:
        with held(sweep, sweep.entries[0]):
            begun.set()
            while not is_to_stop(sweep.directory):
                time.sleep(0.01)
            time.sleep(0.3)
            ended.append(True)

    begun, ended = threading.Event(), list[bool]()
    worker = threading.Thread(target=works)
    worker.start()
    begun.wait()

    result = command("sweep", "stop", "s")

    assert ended == [True]
    worker.join()
    assert result.exit_code == 0
    assert "1 runs save their work" in result.output
    assert "iris sweep resume s goes on" in result.output


def test_nothing_is_begun_while_a_stop_is_asked_for(sweep: Sweep, command: Command) -> None:
    ask_to_stop(sweep)

    result = command("sweep", "work", "s", "pong-0")

    assert result.exit_code == 130
    assert read_state(sweep, sweep.entries[0]) is None


def test_bad_input_fails_a_run_for_good_and_its_state_says_why(sweep: Sweep, command: Command) -> None:
    result = command("sweep", "work", "s", "pong-0")  # its pipeline has no steps to learn from
    unknown = command("sweep", "work", "s", "pong-7")

    state = read_state(sweep, sweep.entries[0])
    assert result.exit_code == 1
    assert state is not None
    assert state.state == FAILED
    assert state.error is not None
    assert state.error in result.output
    assert "needs steps, but none are collected" in state.error
    assert "no run 'pong-7'" in unknown.output


def test_at_the_end_scores_and_report_are_of_all_runs(
    sweep: Sweep, scored: Callable[..., Path], command: Command
) -> None:
    for entry, mean in zip(sweep.entries, (-3.0, 5.0, 14.0), strict=True):
        scored(entry.name, seed=entry.seed, mean=mean)
        write_state(sweep, entry, replace(STATE, state=DONE))

    result = command("sweep", "resume", "s")

    assert result.exit_code == 0, result.output
    assert "s: 3 runs, 3 done" in result.output
    assert "Human-normalised, 1 of the 26 games" in result.output
    assert all(f"runs/{entry.name}" in (sweep.directory / "report.html").read_text() for entry in sweep.entries)
    assert [row.score for row in Board(read_sweep(Path("s"))).rows()] == [-3.0, 5.0, 14.0]


def test_a_sweep_stands_for_those_of_its_runs_that_are_there(
    sweep: Sweep, scored: Callable[..., Path], command: Command
) -> None:
    refused = command("scores", "s")
    for seed in (0, 2):
        scored(f"pong-{seed}", seed=seed, mean=10.0 + seed)

    assert "no run of the sweep has begun" in refused.output
    assert [str(run) for run in runs_in(Path("s"))] == ["runs/pong-0", "runs/pong-2"]
    named, meant = (
        json.loads(command("scores", *runs, "--json").stdout) for runs in (["runs/pong-0", "runs/pong-2"], ["s"])
    )
    assert named == meant


def test_a_sweep_is_not_made_where_something_else_lies(sweep: Sweep, command: Command) -> None:
    Path("p.yaml").write_text(
        "game: Pong\npreset: tiny\nrun: r/{seed}\ndataset: d/{seed}.zarr\nfirst: [{collect: {steps: 9}}]\n"
    )
    Path("taken").mkdir()
    Path("taken/report.html").write_text("mine")

    for place, words in (("taken", "something else is there already"), ("p.yaml", "something else is there already"),
                         ("/proc/s", "the sweep cannot be made: No such file")):  # fmt: skip
        result = command("sweep", "p.yaml", "--seeds", "1", "--device", "cpu", "--engine", "local", "--dir", place)
        assert result.exit_code == 1
        assert words in result.output
    assert [path.name for path in Path("taken").iterdir()] == ["report.html"]
    assert Path("taken/report.html").read_text() == "mine"
