"""`iris curve`: the evaluations of runs, where they were made."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from iris_cli.errors import ConfigError, RunError
from iris_cli.pipeline import execute
from iris_cli.plan import make_plan
from iris_cli.plots import Curve
from iris_cli.stages import curve as stage
from iris_cli.stages.curve import curve, points_of

Command = Callable[..., Result]
Scored = Callable[..., Path]
PIPELINE = """
preset: tiny
game: "toy_game:Toy"
dataset: data/p.zarr
run: runs/p
rounds: 4
round:
  - collect: {steps: 12}
  - evaluate: {episodes: 2, every: 2}
then:
  - evaluate: {episodes: 3}
"""


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict:
    """What reaches the drawing: `curves`, and the words and marks of the picture."""
    seen: dict = {}

    def keep(path: Path, curves: list[Curve], **words: object) -> Path:
        seen.update(words, path=path, curves=curves)
        return path

    monkeypatch.setattr(stage.plots, "learning_curves", keep)
    return seen


@pytest.fixture
def piped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of a real pipeline on the toy game: evaluations after 24, 48 and 48 steps."""
    monkeypatch.chdir(tmp_path)
    Path("p.yaml").write_text(PIPELINE)
    execute(make_plan(Path("p.yaml")))
    return Path("runs/p")


def logged(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_pipeline_has_its_evaluations_at_the_steps_collected_before_them(piped: Path) -> None:
    points = points_of(piped)

    assert [point.steps for point in points] == [24, 48, 48]
    reports = [json.loads((piped / f"reports/evaluate-{name}.json").read_text()) for name in
               ("round-0002", "round-0004", "then")]  # fmt: skip
    assert [point.score for point in points] == [report["mean"] for report in reports]
    assert [point.standard_error for point in points] == [report["standard_error"] for report in reports]
    assert [report["collected_steps"] for report in reports] == [24, 48, 48]


def test_minutes_are_the_work_before_an_evaluation(piped: Path) -> None:
    seconds = [line["seconds"] for line in logged(piped) if line.get("event") == "stage"]
    places = [index for index, line in enumerate(logged(piped)) if line["stage"] == "evaluate"]

    minutes = [point.minutes for point in points_of(piped)]

    assert places == [2, 5, 6]
    assert minutes == pytest.approx([sum(seconds[:place]) / 60 for place in places])


def test_a_line_that_a_kill_cut_off_is_none(piped: Path) -> None:
    with (piped / "metrics.jsonl").open("a") as file:
        file.write('{"time": 1, "round": 5, "event": "stage", "stage": "eval')

    assert len(points_of(piped)) == 3


def test_a_lost_report_costs_the_band_alone(piped: Path, drawn: dict) -> None:
    curve([piped], Path("c.png"))
    assert drawn["curves"][0].band is not None

    (piped / "reports" / "evaluate-round-0002.json").unlink()
    curve([piped], Path("c.png"))

    assert drawn["curves"][0].band is None
    assert list(drawn["curves"][0].x) == [24, 48, 48]


def test_runs_trained_by_hand_have_their_reports(scored: Scored) -> None:
    scored("a", mean=1.0, updates=10, steps=500, report="000003", at="2026-11-21T03:30:00+0000")
    run = scored("a", mean=2.0, updates=20, steps=900, report="000002", at="2026-11-21T04:30:00+0000")

    points = points_of(run)

    assert [(point.steps, point.minutes, point.score) for point in points] == [(500, 30, 1.0), (900, 90, 2.0)]


def test_each_run_is_a_line_named_by_its_directory(scored: Scored, drawn: dict) -> None:
    runs = [scored("a", mean=1.0), scored("b", mean=2.0, seed=1), scored("more/a", mean=3.0, seed=2)]

    report = curve([runs[0], runs[1]], Path("c.png"), threshold=1.5)

    assert [line.label for line in drawn["curves"]] == ["a", "b"]
    assert [list(line.y) for line in drawn["curves"]] == [[1.0], [2.0]]
    assert (drawn["x_label"], drawn["random"], drawn["threshold"]) == ("environment steps", -20.7, 1.5)
    assert report.figures == {
        "a, last score": 1.0, "b, last score": 2.0, "a, 1.5 after": "not reached", "b, 1.5 after": "100,000 steps",
    }  # fmt: skip
    curve(runs, Path("c.png"), x="minutes", random=0.0)
    assert [line.label for line in drawn["curves"]] == ["runs/a", "b", "runs/more/a"]
    assert [list(line.x) for line in drawn["curves"]] == [[60.0]] * 3
    assert (drawn["x_label"], drawn["random"]) == ("minutes of work", 0.0)


def test_games_that_were_cut_short_are_said_to_be_no_scores(scored: Scored, drawn: dict) -> None:
    runs = [scored("a"), scored("b", seed=1)]
    path = runs[1] / "reports" / "evaluate-then.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "cut": 1}))

    assert curve(runs, Path("c.png")).notes == ("games of b were cut short, so these are not scores",)
    assert curve(runs[:1], Path("c.png")).notes == ()


def test_games_are_not_mixed(scored: Scored) -> None:
    with pytest.raises(ConfigError, match="Boxing, Pong"):
        curve([scored("a"), scored("b", game="Boxing")], Path("c.png"))


def test_steps_that_are_not_known_are_not_drawn(scored: Scored, drawn: dict) -> None:
    run = scored("a", steps=None)

    with pytest.raises(RunError, match="--x minutes"):
        curve([run], Path("c.png"))
    curve([run], Path("c.png"), x="minutes")
    assert len(drawn["curves"]) == 1


def test_a_run_that_was_never_evaluated_says_how(scored: Scored) -> None:
    run = scored("a")
    (run / "reports" / "evaluate-then.json").unlink()

    with pytest.raises(RunError, match="iris evaluate --run runs/a"):
        curve([run], Path("c.png"))


@pytest.mark.parametrize("text", ["x\n", "[]\n", '{"event": "stage", "stage": "evaluate"}\n'])
def test_metrics_that_cannot_be_read_are_named(scored: Scored, text: str) -> None:
    run = scored("a")
    (run / "metrics.jsonl").write_text(text)

    with pytest.raises(RunError, match=r"metrics cannot be read.*metrics\.jsonl"):
        points_of(run)


def test_the_command_writes_the_picture(scored: Scored, command: Command) -> None:
    pytest.importorskip("matplotlib")
    scored("a")

    result = command("curve", "runs/a", "--out", "docs/curve.png", "--threshold", "0.95", "--x", "minutes")

    assert result.exit_code == 0, result.output
    assert Path("docs/curve.png").read_bytes().startswith(b"\x89PNG")
    assert "docs/curve.png" in result.stdout
    assert command("curve").exit_code == 2
    assert command("curve", "runs/none").exit_code == 1
