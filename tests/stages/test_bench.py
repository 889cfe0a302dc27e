"""Throughput of every stage, at tiny size."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from iris_cli.agents import build, presets_for
from iris_cli.errors import ConfigError
from iris_cli.plan import make_plan
from iris_cli.stages.bench import SCHEDULES, bench, report_of, save
from iris_cli.stages.bench_measures import COMPONENTS

PIPELINES = Path(__file__).parents[2] / "pipelines"
STAGES = ("imagination", "actor_critic", "tokenizer", "tokenize", "dynamics", "collect", "evaluate")


@cache
def benched(agent: str) -> dict[str, Any]:
    return bench(agent=agent, preset="tiny", seconds=0.0, device="cpu")


@pytest.fixture(params=["iris", *(pytest.param(agent, marks=pytest.mark.pipeline) for agent in ("delta-iris", "twm"))])
def result(request: pytest.FixtureRequest) -> dict[str, Any]:
    return benched(request.param)


def test_every_stage_has_its_throughput_beside_the_plain_one_if_there_is_one(result: dict[str, Any]) -> None:
    together = {"agent"} if result["agent"] == "twm" else set()
    assert set(result["stages"]) == set(STAGES) | together
    for name, row in result["stages"].items():
        assert {"throughput", "unit", "ratio_to_plain", "share_of_run", "seconds"} <= set(row), name
        assert row["throughput"] > 0
        assert row["ratio_to_plain"] > 0 if result["agent"] == "iris" else row["ratio_to_plain"] is None
        if name not in ("collect", "evaluate", "actor_critic"):
            assert row["operations"] > 0
            assert row["bytes"] > 0


def test_the_memory_of_training_is_the_sum_of_its_parts(result: dict[str, Any]) -> None:
    memory = result["memory"]
    activations = memory["activations"]
    parts = ("weights", "gradients", "optimizers", "replay", "cache")

    assert all(memory[name] > 0 for name in parts)
    assert all(size > 0 for size in activations.values())
    assert memory["total"] == sum(memory[name] for name in parts) + max(activations.values())
    frame = 64 * 64 * (4 if result["agent"] == "twm" else 3)
    assert 1 < memory["replay"] / (100_000 * frame) < 1.02


def test_weights_optimizers_and_cache_are_those_of_the_agent() -> None:
    config = presets_for("iris")["tiny"]
    agent, memory = build("iris", config, 6), benched("iris")["memory"]

    weights = {name: sum(p.nbytes for p in getattr(agent, name).parameters()) for name in COMPONENTS}
    moments = 2 * sum(weights.values())
    assert moments < memory["optimizers"] < 1.01 * moments  # and a step count for each tensor
    assert memory["gradients"] >= max(weights.values())
    keys_and_values = 2 * config.dynamics.layers * config.dynamics.width * config.dynamics.max_blocks * 17
    assert memory["cache"] == 4 * keys_and_values * config.actor_critic.batch_size


def test_the_hours_of_a_run_are_the_sum_of_its_stages(result: dict[str, Any]) -> None:
    parts = [row for name, row in result["stages"].items() if name != "imagination"]

    assert sum(row["share_of_run"] for row in parts) == pytest.approx(1, rel=1e-3)
    assert sum(row["seconds"] for row in parts) / 3600 == pytest.approx(result["predicted_hours"], rel=1e-3)
    if result["agent"] == "iris":
        assert result["stages"]["imagination"]["seconds"] < result["stages"]["actor_critic"]["seconds"]


@pytest.mark.parametrize("agent", SCHEDULES)
def test_a_full_run_is_the_pipeline_of_that_name(agent: str) -> None:
    name = "atari100k.yaml" if agent == "iris" else f"atari100k-{agent}.yaml"
    plan, schedule = make_plan(PIPELINES / name, game="Pong"), SCHEDULES[agent]

    totals = plan.totals()
    assert totals.pop("environment steps") == schedule.steps
    assert totals == {f"{name.replace('_', '-')} updates": count for name, count in schedule.updates.items()}
    assert sum(planned.settings.episodes for planned in plan.stages if planned.stage == "evaluate") == schedule.games


def test_frames_are_encoded_once_in_every_round_that_reads_tokens() -> None:
    plan = make_plan(PIPELINES / "atari100k.yaml", game="Pong")
    steps = encoded = 0
    for planned in plan.stages:
        steps += planned.settings.steps if planned.stage == "collect" else 0
        encoded += steps if planned.stage == "train-dynamics" else 0

    assert encoded == SCHEDULES["iris"].encoded


def test_a_result_is_saved_under_its_date_and_hardware(result: dict[str, Any], tmp_path: Path) -> None:
    inside = save(result, tmp_path / "results")
    named = save(result, tmp_path / "mine.json")

    assert inside.name.startswith(result["date"])
    assert inside.name.endswith("-tiny.json")
    assert (result["agent"] in inside.name) == (result["agent"] != "iris")
    assert json.loads(inside.read_text()) == json.loads(named.read_text()) == result


def test_people_read_a_table(result: dict[str, Any]) -> None:
    machine, memory, stages = report_of(result, None).sections

    assert ("predicted hours", result["predicted_hours"]) in machine.rows
    assert [row[0] for row in stages.rows] == list(result["stages"])
    assert ("in all", f"{result['memory']['total'] / 1e6:,.1f} MB") in memory.rows


def test_an_unknown_agent_or_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no agent 'irs'"):
        bench(agent="irs")
    with pytest.raises(ConfigError, match="unknown preset 'smal'"):
        bench(preset="smal")
