"""Which report stands for a run, and what is said about how it was made."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iris_cli.agents import AGENTS
from iris_cli.errors import RunError
from iris_cli.evaluations import EPISODES, TEMPERATURES, evaluations, final_evaluation
from iris_cli.stages.evaluate import Evaluate

Scored = Callable[..., Path]


def final(run: Path) -> str:
    report = final_evaluation(run)
    assert report is not None
    return report.path.name


def test_the_published_protocol_is_that_of_evaluate() -> None:
    assert Evaluate().episodes == EPISODES
    assert set(TEMPERATURES) == set(AGENTS)
    assert (Evaluate().epsilon, Evaluate().max_steps) == (0.0, None)


def test_a_report_by_the_published_protocol_departs_in_nothing(scored: Scored) -> None:
    (report,) = evaluations(scored("a", mean=3.0, seed=4))

    assert report.departures == ()
    assert (report.game, report.agent, report.preset, report.seed) == ("Pong", "iris", "tiny", 4)
    assert (report.mean, len(report.scores), report.steps, report.cut) == (3.0, 100, 100_000, 0)


def test_the_newest_weights_stand_for_a_run_whatever_their_score(scored: Scored) -> None:
    scored("a", report="round-0100", mean=20.0, updates=100, at="2026-11-21T09:00:00+0000")
    run = scored("a", report="round-0200", mean=-20.0, updates=200, at="2026-11-21T05:00:00+0000", episodes=16)

    assert final(run) == "evaluate-round-0200.json"


def test_a_quick_look_at_the_same_weights_does_not_replace_the_whole_evaluation(scored: Scored) -> None:
    scored("a", report="then", mean=1.0)
    run = scored("a", report="000007", mean=9.0, episodes=5, at="2026-11-21T09:00:00+0000")

    assert final(run) == "evaluate-then.json"


def test_of_two_whole_evaluations_the_later_stands_by_the_clock_and_not_by_its_letters(scored: Scored) -> None:
    scored("a", report="then", at="2026-11-21T09:00:00+0900")
    run = scored("a", report="again", at="2026-11-21T01:00:00+0000")

    assert final(run) == "evaluate-again.json"


def test_a_run_without_reports_has_no_final_one(scored: Scored) -> None:
    run = scored("a")
    (run / "reports" / "evaluate-then.json").unlink()

    assert final_evaluation(run) is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"episodes": 16}, "16 episodes, not 100"),
        ({"temperature": 1.0}, "temperature 1.0, not 0.5"),
        ({"agent": "twm", "temperature": 0.5}, "temperature 0.5, not 1.0"),
        ({"epsilon": 0.01}, "epsilon 0.01, not 0"),
        ({"sampled": False}, "actions not sampled"),
        ({"max_steps": 500, "cut": 3}, "games cut at 500 steps (3 of 100 were)"),
    ],
)
def test_a_departure_from_the_protocol_is_named(scored: Scored, settings: dict[str, Any], words: str) -> None:
    (report,) = evaluations(scored("a", **settings))

    assert report.departures == (words,)


@pytest.mark.parametrize("change", [{"noop_max": 30}, {"life_loss_ends": True}, {"max_frames": 20_000}])
def test_another_environment_than_the_published_one_is_named(scored: Scored, change: dict[str, Any]) -> None:
    run = scored("a")
    path = run / "reports" / "evaluate-then.json"
    content = json.loads(path.read_text())
    content["protocol"]["environment"] |= change
    path.write_text(json.dumps(content))

    (report,) = evaluations(run)

    assert len(report.departures) == 1
    assert report.departures[0].startswith(f"{next(iter(change))} {next(iter(change.values()))}, not ")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"scores": 3}', '{"scores": ["x"]}'])
def test_a_report_that_cannot_be_read_is_named(scored: Scored, text: str) -> None:
    run = scored("a")
    (run / "reports" / "evaluate-bad.json").write_text(text)

    with pytest.raises(RunError, match=r"cannot be read.*evaluate-bad\.json"):
        evaluations(run)


def test_every_key_that_is_read_must_be_there(scored: Scored) -> None:
    path = scored("a") / "reports" / "evaluate-then.json"
    content = json.loads(path.read_text())
    unread = {
        "lengths",
        "confidence_interval",
        "human_normalised",
        "tokenizer_loss",
        "device",
        "seconds",
        "versions",
        "world_model",
    }
    for key in content.keys() - unread - {"collected_steps"}:
        path.write_text(json.dumps({name: value for name, value in content.items() if name != key}))
        with pytest.raises(RunError, match=key):
            evaluations(path.parent.parent)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run"):
        evaluations(tmp_path / "nothing")


def test_a_protocol_of_grey_stacks_is_twm_s_own(scored: Callable[..., Path]) -> None:
    run = scored("a", agent="twm", temperature=1.0)
    content = json.loads((run / "reports" / "evaluate-then.json").read_text())

    assert content["protocol"]["environment"]["view"] == "grey-stack"
    assert final_evaluation(run).departures == ()
    content["protocol"]["environment"]["noop_max"] = 30
    (run / "reports" / "evaluate-then.json").write_text(json.dumps(content))
    assert final_evaluation(run).departures == ("noop_max 30, not 0",)
