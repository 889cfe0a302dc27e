import json
from pathlib import Path

import pytest

from iris_cli.errors import IrisError
from iris_cli.stages.info import info


def test_a_dataset_tells_its_length_environment_and_scores(workplace: Path) -> None:
    facts = info(Path("data/pong.zarr"))

    assert facts["kind"] == "dataset"
    assert (facts["steps"], facts["episodes"], facts["complete_episodes"]) == (20, 2, 2)
    assert facts["environment"] == "ALE/Pong-v5"
    assert facts["mean_score"] == 1.0
    assert facts["actions"] == 6
    assert facts["tokens"] == {}


def test_a_run_tells_its_agent_updates_and_place(workplace: Path) -> None:
    facts = info(Path("runs/pong"))

    assert facts["kind"] == "run"
    assert (facts["agent"], facts["preset"], facts["environment"]) == ("iris", "tiny", "ALE/Pong-v5")
    assert facts["updates"] == {"tokenizer": 1, "dynamics": 1, "actor_critic": 1}
    assert facts["dataset"] == "data/pong.zarr"
    assert facts["checkpoint"] == "000002"
    assert facts["unfinished_stage"] is None
    assert "last_evaluation" not in facts


def test_a_run_tells_its_last_evaluation(workplace: Path) -> None:
    reports = workplace / "runs/pong/reports"
    reports.mkdir()
    (reports / "evaluate-000002.json").write_text(
        json.dumps({"mean": -20.5, "scores": [-20, -21], "human_normalised": 0.01})
    )

    facts = info(Path("runs/pong"))

    assert facts["last_evaluation"]["mean"] == -20.5
    assert facts["last_evaluation"]["episodes"] == 2


@pytest.mark.parametrize("path", ["data/pong.zarr", "runs/pong"])
def test_facts_are_json(workplace: Path, path: str) -> None:
    facts = info(Path(path))

    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.parametrize("path", ["data", "nothing", "runs/pong/run.yaml"])
def test_what_is_neither_is_refused(workplace: Path, path: str) -> None:
    with pytest.raises(IrisError, match=path):
        info(Path(path))
