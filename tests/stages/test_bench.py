"""Throughput of every stage, at tiny size."""

import json
from pathlib import Path
from typing import Any

import pytest

from iris_cli.errors import ConfigError
from iris_cli.plan import make_plan
from iris_cli.stages.bench import GAMES, LAST_COLLECTING, ROUND_STEPS, ROUNDS, UPDATES, bench, report_of, save

PIPELINE = Path(__file__).parents[2] / "pipelines" / "atari100k.yaml"
STAGES = ("imagination", "actor_critic", "tokenizer", "tokenize", "dynamics", "collect", "evaluate")


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return bench(preset="tiny", seconds=0.0, device="cpu")


def test_every_stage_has_its_throughput_beside_the_plain_one(result: dict[str, Any]) -> None:
    assert set(result["stages"]) == set(STAGES)
    for name, row in result["stages"].items():
        assert {"throughput", "unit", "ratio_to_plain", "share_of_run", "seconds"} <= set(row), name
        assert row["throughput"] > 0
        assert row["ratio_to_plain"] > 0
        if name not in ("collect", "evaluate", "actor_critic"):
            assert row["operations"] > 0
            assert row["bytes"] > 0


def test_the_hours_of_a_run_are_the_sum_of_its_stages(result: dict[str, Any]) -> None:
    parts = [row for name, row in result["stages"].items() if name != "imagination"]

    assert sum(row["share_of_run"] for row in parts) == pytest.approx(1, rel=1e-3)
    assert sum(row["seconds"] for row in parts) / 3600 == pytest.approx(result["predicted_hours"], rel=1e-3)
    assert result["stages"]["imagination"]["seconds"] < result["stages"]["actor_critic"]["seconds"]


def test_a_full_run_is_the_pipeline_of_that_name() -> None:
    plan = make_plan(PIPELINE, game="Pong")

    totals = plan.totals()
    assert totals["environment steps"] == ROUND_STEPS * LAST_COLLECTING
    assert {name: totals[f"{name.replace('_', '-')} updates"] for name in UPDATES} == UPDATES
    assert plan.rounds == ROUNDS
    assert sum(planned.settings.episodes for planned in plan.stages if planned.stage == "evaluate") == GAMES


def test_a_result_is_saved_under_its_date_and_hardware(result: dict[str, Any], tmp_path: Path) -> None:
    inside = save(result, tmp_path / "results")
    named = save(result, tmp_path / "mine.json")

    assert inside.name.startswith(result["date"])
    assert inside.name.endswith("-tiny.json")
    assert json.loads(inside.read_text()) == json.loads(named.read_text()) == result


def test_people_read_a_table(result: dict[str, Any]) -> None:
    machine, stages = report_of(result, None).sections

    assert ("predicted hours", result["predicted_hours"]) in machine.rows
    assert [row[0] for row in stages.rows] == list(result["stages"])


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown preset 'smal'"):
        bench(preset="smal")
