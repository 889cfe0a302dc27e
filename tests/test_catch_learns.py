"""An agent learns a game from nothing: its eyes, its dreams of the game, and in those how to play.

Random play scores -0.75; the pipeline scored 0.98 (2026-11-21, one core, 200 games). With one part broken on purpose,
and 8 rounds of 60 policy updates where the unbroken one had come to 0.37, it scored
  -0.76 where the policy gradient was 0 (loss_actions times 0),
  -0.67 where the dynamics did not learn tokens (loss_tokens times 0),
  -0.75 where `encode` gave zeros for all tokens (stopped in round 5 from outside, and gone on with).
"""

import json
from pathlib import Path
from typing import Any

import pytest

from iris_cli.replay.dataset import Dataset

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(900)]

ROUNDS = 16
STEPS = 2800 + ROUNDS * 140
UPDATES = {"tokenizer": 150, "dynamics": 500 + ROUNDS * 50, "actor_critic": ROUNDS * 80}


def test_an_agent_that_has_only_dreamt_of_catch_plays_it(iris: Any, tmp_path: Path, repository: Path) -> None:
    done = iris(
        "run", repository / "pipelines" / "catch.yaml", "--seed", 0, "--device", "cpu", timeout=880,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "runs" / "catch-0"
    score = json.loads((run / "reports" / "evaluate-then.json").read_text())
    assert (score["environment"], len(score["scores"]), score["protocol"]["max_steps"]) == ("Catch-v0", 200, None)
    assert set(score["scores"]) <= {-1.0, 1.0}
    assert score["mean"] >= 0.5

    # It has learned from what was collected, at random to begin with, ...
    assert score["updates"] == UPDATES
    assert score["collected_steps"] == Dataset.open(tmp_path / "data" / "catch-0.zarr").num_steps == STEPS
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    stages = [line for line in lines if line.get("event") == "stage"]
    assert (stages[0]["stage"], stages[0]["figures"]["episodes"]) == ("collect", 400)
    assert stages[0]["figures"]["mean_score"] == pytest.approx(-0.75, abs=0.15)

    # ... and in dreams, whose games end and pay as real ones do, and in which it came to lose less.
    dreams = [line["figures"] for line in stages if line["stage"] == "train-actor-critic"]
    assert len(dreams) == ROUNDS
    assert all(0.05 < dream["ends"] < 0.5 for dream in dreams)
    assert dreams[-1]["rewards"] > dreams[1]["rewards"] + 0.05
