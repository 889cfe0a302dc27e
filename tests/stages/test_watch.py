"""`iris watch`: what a run's files say while it is trained, and when it ends."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from iris_cli import console
from iris_cli.history import write_plan
from iris_cli.report import Report
from iris_cli.stages.watch import Watcher

Command = Callable[..., Result]
RUN = Path("runs/pong")


def words_of(report: Report) -> str:
    return "\n".join(
        [
            section.title + "\n" + "\n".join(" | ".join(map(str, row)) for row in section.rows)
            for section in report.sections
        ]
    )


def seen(run: Path = RUN) -> str:
    return words_of(Watcher(run).look()[0])


def write(*lines: dict[str, Any]) -> None:
    with (RUN / "metrics.jsonl").open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))


def closed(stage: str, seconds: float, *, round: int | None = 1, **figures: float) -> dict[str, Any]:
    return {"time": time.time(), "round": round, "event": "stage", "stage": stage, "phase": "round",
            "seconds": seconds, "figures": figures}  # fmt: skip


def under_way() -> None:
    """A run in its second round, by a process that is there, after 20 of 40 updates."""
    stages = [["round", r, name, a] for r in (1, 2, 3) for name, a in (("collect", 10), ("train-dynamics", 40))]
    write_plan(RUN, {"rounds": 3, "stages": stages})
    now = time.time()
    write(
        closed("collect", 5.0, steps_in_all=10, mean_score=3.0),
        {"time": now - 30, "stage": "train-dynamics", "update": 40, "total_loss": 2.0},
        closed("train-dynamics", 80.0, updates=40, total_loss=2.0),
        closed("collect", 5.0, round=2, steps_in_all=20, mean_score=4.0),
        {"time": now - 12, "stage": "train-dynamics", "update": 50, "total_loss": 1.5},
        {"time": now - 2, "stage": "train-dynamics", "update": 60, "total_loss": 1.25, "gradient_norm": 0.5},
    )
    (RUN / ".lock").write_text(str(os.getpid()))


def test_a_run_under_way_has_its_place_its_speed_and_what_is_left(workplace: Path) -> None:
    under_way()

    report, over = Watcher(RUN).look()
    words = words_of(report)

    assert not over
    assert f"trained by process {os.getpid()}" in words
    assert "pipeline | round 2 of 3, 3 of 6 stages" in words
    assert "stage | train-dynamics, 20 of 40 updates" in words
    assert "speed | 1 updates/s" in words
    assert "left | about 165 s" in words or "left | about 3 min" in words  # 80 + 5 + 80 seconds, just begun
    assert "train-dynamics | 60 | total loss 1.25, gradient norm 0.5" in words


def test_what_was_never_timed_is_not_estimated(workplace: Path) -> None:
    write_plan(RUN, {"rounds": 1, "stages": [["round", 1, "collect", 5], ["then", None, "evaluate", 3]]})
    write(closed("collect", 5.0, steps_in_all=5))
    (RUN / ".lock").write_text(str(os.getpid()))

    words = seen()

    assert "left | not known yet" in words
    assert "stage | evaluate, 3 episodes" in words


def test_a_run_trained_by_hand_has_its_stage_from_the_checkpoint(workplace: Path) -> None:
    state = RUN / "checkpoints" / (RUN / "checkpoints" / "latest").read_text().strip() / "state.json"
    content = json.loads(state.read_text())
    state.write_text(json.dumps({**content, "progress": {"stage": "train-dynamics", "done": 30, "total": 90}}))
    write({"time": time.time(), "round": None, "stage": "train-dynamics", "update": 30, "total_loss": 1.0})
    (RUN / ".lock").write_text(str(os.getpid()))

    assert "stage | train-dynamics, 30 of 90 updates" in seen()


def test_evaluations_are_the_last_ones_with_their_steps(workplace: Path) -> None:
    for number in range(1, 8):
        write(
            closed("collect", 1.0, round=number, steps_in_all=10 * number),
            closed("evaluate", 1.0, round=number, mean_score=float(number)),
        )

    words = seen()

    assert "round 7 | 70 | 7.0" in words
    assert "round 2 |" not in words


def test_evaluations_of_a_run_trained_by_hand_are_its_reports(scored: Callable[..., Path]) -> None:
    scored("a", mean=1.5, updates=10, steps=500, report="000003")
    run = scored("a", mean=2.5, updates=20, steps=900, report="000004")

    words = seen(run)

    assert "evaluate-000003 | 500 | 1.5" in words
    assert "evaluate-000004 | 900 | 2.5" in words


@pytest.mark.parametrize("lock", ["", "none", "0", "-1", "99999999", "1" * 40])
def test_nobody_trains_a_run_whose_lock_names_no_process(workplace: Path, lock: str) -> None:
    (RUN / ".lock").write_text(lock)

    report, over = Watcher(RUN).look()

    assert over
    assert "nobody trains it" in words_of(report)


def test_lines_that_are_taken_back_vanish_from_the_picture(workplace: Path) -> None:
    watcher = Watcher(RUN)
    write({"time": 1.0, "stage": "train-dynamics", "update": 50, "total_loss": 1.0})
    assert "train-dynamics | 50" in words_of(watcher.look()[0])
    (RUN / "metrics.jsonl").write_text("")

    assert "train-dynamics" not in words_of(watcher.look()[0])
    write({"time": 1.0, "stage": "train-tokenizer", "update": 5, "total_loss": 1.0})
    assert "train-tokenizer | 5" in words_of(watcher.look()[0])


@pytest.mark.parametrize("plan", ["[]", '{"stages": [1]}', '{"stages": [["a", "b", "c"]]}', "{", '{"stages": 3}'])
def test_a_plan_that_cannot_be_read_is_none(workplace: Path, plan: str) -> None:
    under_way()
    (RUN / "plan.json").write_text(plan)

    assert "how many there are is not recorded" in seen()


def test_once_prints_one_picture_and_names_the_newest_run(command: Command, workplace: Path) -> None:
    os.utime("runs/pong/checkpoints/latest", (2e9, 2e9))
    under_way()

    result = command("watch", "--once")

    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("runs/pong: iris on ALE/Pong-v5, trained by process")
    assert "━" in result.stdout
    assert command("watch", "runs/none", "--once").exit_code == 1


def test_markup_in_names_is_text(command: Command, workplace: Path) -> None:
    RUN.rename("runs/[bold]x[red]")
    hostile = Path("runs/[bold]x[red]")
    (hostile / "metrics.jsonl").write_text('{"stage": "[/nope]", "update": 1, "[red]": 2.0, "time": 1}\n')

    result = command("watch", hostile, "--once")

    assert result.exit_code == 0, result.output
    assert "runs/[bold]x[red]" in result.stdout
    assert "[/nope]" in result.stdout


def test_following_ends_with_the_run_or_a_stop(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "PLAIN_SECONDS", 0.0)
    under_way()
    watcher, looks = Watcher(RUN), 0

    def look() -> tuple[Report, bool]:
        nonlocal looks
        looks += 1
        if looks == 3:
            (RUN / ".lock").write_text("")
        return watcher.look()

    console.follow(look, stop=lambda: False, seconds=0.0)
    assert looks == 3
    (RUN / ".lock").write_text(str(os.getpid()))
    console.follow(look, stop=lambda: True, seconds=60.0)
    assert looks == 4
    printed = capsys.readouterr().out
    assert printed.count("trained by process") == 3
    assert printed.count("nobody trains it") == 1


@pytest.mark.pipeline
def test_a_watcher_in_a_terminal_follows_a_real_run_to_its_end(tmp_path: Path, repository: Path) -> None:
    """Under a pseudo terminal; the run is another process, whose end it notices."""
    import pty

    environment = {
        **os.environ, "COLUMNS": "120", "LINES": "50", "TERM": "xterm",
        "PYTHONPATH": f"{repository}:{repository / 'tests'}",
    }  # fmt: skip
    (tmp_path / "p.yaml").write_text(
        "preset: tiny\ngame: toy_game:Toy\ndataset: d.zarr\nrun: runs/p\nrounds: 3\n"
        "round: [{collect: {steps: 30}}, {train-tokenizer: {updates: 40}}]\n"
    )
    iris = [sys.executable, "-m", "iris_cli"]
    run = subprocess.Popen(
        [*iris, "run", "p.yaml"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        while not (tmp_path / "runs/p/metrics.jsonl").exists():
            assert run.poll() is None, run.stdout and run.stdout.read()
            time.sleep(0.1)
        ours, theirs = pty.openpty()
        watch = subprocess.Popen(
            [*iris, "watch", "runs/p"], cwd=tmp_path, env=environment, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # the other end is closed
            pass
        assert watch.wait(60) == 0
        assert run.wait(60) == 0
    finally:
        run.kill()
    words = shown.decode(errors="replace")
    assert f"trained by process {run.pid}" in words
    assert "of 3, " in words
    assert words.rindex("nobody trains it") > words.rindex("trained by process")
