"""`iris scores`: yours by the same formulas as the published ones, and every unfairness said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from iris_cli.errors import ConfigError, RunError
from iris_cli.learn.scores import RANDOM_AND_HUMAN, aggregate
from iris_cli.published import published_scores, sources
from iris_cli.run import Run
from iris_cli.stages.evaluate import Evaluate, evaluate
from iris_cli.stages.scores import FIGURES, scores

Command = Callable[..., Result]
NewRun = Callable[..., Run]
Scored = Callable[..., Path]
PUBLISHED = published_scores()


def test_runs_that_score_as_a_method_have_its_figures(scored: Scored) -> None:
    games = ("Alien", "Boxing", "Breakout", "Krull")
    runs = [
        scored(f"{game}-{seed}", game=game, seed=seed, mean=score)
        for game in games
        for seed, score in enumerate(PUBLISHED["IRIS"][game])
    ]

    facts = scores(runs)

    yours, theirs = facts["yours"], facts["published_on_your_games"]["IRIS"]
    assert {name: yours[name] for name in FIGURES} == pytest.approx({name: theirs[name] for name in FIGURES})
    assert (yours["runs"], yours["games"]) == (5, 4)
    for name, interval in theirs["intervals"].items():
        assert yours["intervals"][name] == pytest.approx(interval), name
    assert facts["improvement"]["probability"] == pytest.approx(0.5)
    assert facts["warnings"] == []


def test_the_published_figures_are_those_of_the_papers_under_exactly_these_keys() -> None:
    published = scores([])["published"]

    assert published.keys() == PUBLISHED.keys()
    for method, figures in published.items():
        assert list(figures) == ["mean", "median", "iqm", "optimality_gap", "superhuman", "runs"], method
    rounded = {name: tuple(round(published[name][key], 3) for key in FIGURES[:3]) for name in published}
    assert rounded["TWM"] == (0.956, 0.505, 0.459)
    assert rounded["Delta-IRIS"] == (1.383, 0.594, 0.682)
    assert rounded["REM"] == (1.222, 0.28, 0.673)
    assert [published[name]["superhuman"] for name in ("TWM", "Delta-IRIS", "REM")] == [8, 12, 12]
    assert (published["IRIS"]["runs"], published["EfficientZero"]["runs"]) == (5, 1)


def test_the_others_are_computed_on_the_games_that_you_have(scored: Scored) -> None:
    runs = [scored("a", game="Boxing", mean=50), scored("b", game="Boxing", mean=60, seed=1), scored("c", mean=3)]

    facts = scores(runs)

    assert facts["yours"]["games"] == 2
    for method in ("IRIS", "CURL", "MuZero"):
        expected = aggregate({game: PUBLISHED[method][game] for game in ("Boxing", "Pong")})
        assert facts["published_on_your_games"][method]["iqm"] == pytest.approx(expected.iqm)
    assert facts["published"]["IRIS"]["iqm"] == pytest.approx(aggregate(PUBLISHED["IRIS"]).iqm)


def test_a_game_has_its_mean_its_spread_over_runs_and_its_references(scored: Scored) -> None:
    runs = [scored(name, game="Boxing", seed=seed, mean=mean) for name, seed, mean in (("a", 0, 50), ("b", 1, 60))]

    game = scores(runs)["games"]["Boxing"]

    assert (game["mean"], game["runs"], game["scores"], game["seeds"]) == (55, 2, [50, 60], [0, 1])
    assert (game["standard_error"], game["standard_error_over"]) == (pytest.approx(5), "runs")
    assert (game["random"], game["human"]) == RANDOM_AND_HUMAN["Boxing"]
    assert game["human_normalised"] == pytest.approx((55 - 0.1) / 12)
    assert game["published_iris"] == pytest.approx(np.mean(PUBLISHED["IRIS"]["Boxing"]))
    means = {method: np.mean(table["Boxing"]) for method, table in PUBLISHED.items()}
    assert game["published_best"]["mean"] == pytest.approx(max(means.values()))
    assert means[game["published_best"]["method"]] == max(means.values())


def test_a_single_run_has_the_spread_of_its_episodes_and_no_interval(scored: Scored) -> None:
    facts = scores([scored("a", game="Boxing", mean=50)])

    assert facts["games"]["Boxing"]["standard_error_over"] == "episodes"
    assert facts["games"]["Boxing"]["standard_error"] == pytest.approx(np.linspace(-1, 1, 100).std(ddof=1) / 10)
    assert facts["yours"]["intervals"] is None
    assert facts["improvement"]["interval"] is None
    assert facts["warnings"] == ["each game has one run, which says nothing of other seeds: no intervals"]


def test_improvement_is_over_the_method_that_was_named(scored: Scored) -> None:
    runs = [scored(f"{seed}", seed=seed, mean=19.0) for seed in range(3)]

    assert scores(runs)["improvement"]["against"] == "IRIS"
    facts = scores(runs, against="CURL")

    assert (facts["improvement"]["against"], facts["improvement"]["probability"]) == ("CURL", 1.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"episodes": 16}, "16 episodes, not 100"),
        ({"temperature": 1.0}, "temperature 1.0, not 0.5"),
        ({"steps": 30_000}, "learned from 30,000 environment steps, not 100,000"),
        ({"steps": None}, "how many steps it learned from is not recorded"),
        ({"max_steps": 500}, "games cut at 500 steps (0 of 100 were)"),
    ],
)
def test_a_run_that_was_evaluated_otherwise_is_named_and_counts(
    scored: Scored, settings: dict[str, Any], words: str
) -> None:
    facts = scores([scored("a", **settings), scored("b", seed=1)])

    assert facts["warnings"] == [f"runs/a is not evaluated as published: {words}"]
    assert facts["yours"]["runs"] == 2


@pytest.mark.parametrize(
    ("second", "words", "runs"),
    [
        ({"seed": 0}, "Pong, seed 0 is there more than once (runs/a, runs/b), and all of them count", 2),
        ({"seed": 1, "weights": "a-300"}, "runs/b holds the very weights of runs/a, and is left out", 1),
        ({"seed": 1, "cut": 2, "max_steps": 9}, "runs/b: 2 of 100 games were cut short, so it is left out", 1),
        ({"seed": 1, "agent": "twm", "temperature": 1.0}, "these runs are of several agents, taken together", 2),
        ({"game": "toy_game:Toy"}, "toy_game:Toy is none of the 26 games", 1),
    ],
)
def test_what_makes_runs_no_fair_sample_is_said(scored: Scored, second: dict[str, Any], words: str, runs: int) -> None:
    facts = scores([scored("a"), scored("b", **second)])

    assert any(warning.startswith(words) for warning in facts["warnings"])
    assert facts["yours"]["runs"] == runs


def test_unequal_numbers_of_runs_are_said(scored: Scored) -> None:
    facts = scores([scored("a"), scored("b", seed=1), scored("c", game="Boxing")])

    assert facts["warnings"] == [
        "games have unequal numbers of runs: those with more weigh more in the IQM and those with one run make the "
        "intervals too narrow"
    ]


def test_what_has_no_report_and_what_is_no_run_are_left_out_aloud(scored: Scored) -> None:
    scored("a")
    bare = scored("bare")
    (bare / "reports" / "evaluate-then.json").unlink()
    Path("runs/notes").mkdir()
    Path("runs/sweeps/atari").mkdir(parents=True)
    Path("runs/sweeps/atari/sweep.yaml").touch()  # runs/* names it too, which is no mistake

    facts = scores(sorted(Path("runs").iterdir()))

    assert [warning for warning in facts["warnings"] if "is left out" in warning or "sweeps" in warning] == [
        "runs/bare has no evaluation yet, and is left out: iris evaluate --run runs/bare",
        "runs/notes is no run, and is left out",
    ]
    assert [report["run"] for report in facts["reports"]] == ["runs/a"]


def test_other_games_than_the_26_have_raw_scores_alone(scored: Scored) -> None:
    facts = scores([scored("a", game="toy_game:Toy", mean=0.9), scored("b", game="toy_game:Toy", mean=1.0, seed=1)])

    assert facts["yours"] is facts["improvement"] is None
    assert facts["games"]["toy_game:Toy"]["mean"] == pytest.approx(0.95)
    assert "human_normalised" not in facts["games"]["toy_game:Toy"]


def test_a_report_of_evaluate_itself_is_read(new_run: NewRun, tmp_path: Path) -> None:
    run = new_run(tmp_path / "none.zarr", game="toy_game:Toy")
    report = evaluate(run, Evaluate(episodes=2, num_envs=1)).files["report"]

    facts = scores([run.directory])

    assert facts["reports"][0]["report"] == str(report)
    assert facts["games"]["toy_game:Toy"]["mean"] == json.loads(report.read_text())["mean"]
    assert facts["warnings"][0].endswith("is not evaluated as published: 2 episodes, not 100")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"runs": [Path("runs/none")]}, RunError, "no such run"),
        ({"runs": [Path(".")]}, RunError, "no score to compare: . is no run"),
        ({"runs": [], "against": "TWM"}, ConfigError, "nothing to compare"),
        ({"runs": [], "against": "TVM"}, ConfigError, "Did you mean 'TWM'"),
    ],
)
def test_wrong_input_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        scores(**arguments)


def test_the_command_prints_games_figures_reports_and_warnings(scored: Scored, command: Command) -> None:
    for seed in range(2):
        scored(f"boxing-{seed}", game="Boxing", seed=seed, mean=50 + seed, episodes=20)

    result = command("scores", "runs/boxing-0", "runs/boxing-1", "--against", "TWM")

    assert result.exit_code == 0
    assert " ".join(next(line for line in result.stdout.splitlines() if line.startswith("Boxing")).split()[:5]) == (
        "Boxing 2 50.5 ± 0.5"
    )
    assert "Human-normalised, 1 of the 26 games" in result.stdout
    assert result.stdout.index("\nyours ") < result.stdout.index("\nEfficientZero ")
    assert "Probability of improvement over TWM: 0.00" in result.stdout
    assert "runs/boxing-1: evaluate-then.json, 20 episodes" in result.stdout
    assert "20 episodes, not 100" in result.stderr


def test_scores_of_other_games_stand_alone(scored: Scored, command: Command) -> None:
    result = command("scores", scored("a", game="toy_game:Toy", mean=0.9))

    assert result.exit_code == 0
    assert "toy_game:Toy" in result.stdout
    assert "Human-normalised" not in result.stdout
    assert "runs/a: evaluate-then.json" in result.stdout


def test_the_command_without_runs_prints_the_published_figures(command: Command) -> None:
    result = command("scores")

    assert result.exit_code == 0
    row = next(line for line in result.stdout.splitlines() if line.startswith("IRIS "))
    assert all(figure in row for figure in ("1.046", "0.289", "0.501", "0.512", "10"))
    assert "yours" not in result.stdout


def test_the_json_is_all_there_is_on_standard_output(scored: Scored, command: Command) -> None:
    scored("a", episodes=9)

    facts = json.loads(command("scores", "runs/a", "--json").stdout)

    assert facts == json.loads(json.dumps(scores([Path("runs/a")])))
    assert facts["sources"] == sources()
    assert len(facts["warnings"]) == 2
    assert json.loads(command("scores", "--json").stdout)["yours"] is None


def test_the_profile_is_drawn(scored: Scored, command: Command) -> None:
    pytest.importorskip("matplotlib")
    scored("a", mean=5)

    result = command("scores", "runs/a", "--profile", "pictures/profile.png")

    assert result.exit_code == 0
    assert Path("pictures/profile.png").read_bytes().startswith(b"\x89PNG")
