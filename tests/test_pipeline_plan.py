"""What a pipeline file means, without carrying it out."""

import subprocess
from pathlib import Path

import pytest

from iris_cli.agents.twm.schedule import steps_per_update
from iris_cli.errors import ConfigError
from iris_cli.plan import Plan, make_plan
from iris_cli.stages.collect import Collect
from iris_cli.stages.evaluate import Evaluate


def plan(text: str, tmp_path: Path, **chosen: object) -> Plan:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    return make_plan(path, **{"game": "Pong", **chosen})  # type: ignore[arg-type]


def labels(planned: Plan) -> list[str]:
    return [f"{stage.label} {stage.stage}" for stage in planned.stages]


def test_stages_come_first_then_in_rounds_then_last(tmp_path: Path) -> None:
    planned = plan("first: [collect]\nrounds: 2\nround: [tokenize, collect]\nthen: [evaluate, imagine]", tmp_path)

    assert labels(planned) == [
        "first collect", "round 1 tokenize", "round 1 collect", "round 2 tokenize", "round 2 collect",
        "then evaluate", "then imagine",
    ]  # fmt: skip
    assert planned.rounds == 2


@pytest.mark.parametrize(
    ("timing", "rounds"),
    [
        ("", [1, 2, 3, 4, 5, 6, 7, 8]),
        ("from: 6", [6, 7, 8]),
        ("until: 3", [1, 2, 3]),
        ("every: 3", [3, 6]),
        ("from: 4, until: 7, every: 2", [4, 6]),
        ("from: 9", []),
    ],
)
def test_a_stage_is_due_by_from_until_and_every(tmp_path: Path, timing: str, rounds: list[int]) -> None:
    planned = plan(f"rounds: 8\nround:\n  - evaluate: {{{timing}}}\nthen: [collect]", tmp_path)

    assert [stage.round for stage in planned.stages if stage.stage == "evaluate"] == rounds


def test_atari_100k_is_the_published_schedule(repository: Path) -> None:
    planned = make_plan(repository / "pipelines" / "atari100k.yaml", game="Qbert")

    assert planned.totals() == {
        "environment steps": 100_000,
        "tokenizer updates": 119_000,
        "dynamics updates": 115_000,
        "actor-critic updates": 110_000,
    }
    assert planned.rounds == 600
    assert planned.run == Path("runs/iris-qbert-0")
    assert planned.config.preset == "published"
    evaluations = [stage.settings.episodes for stage in planned.stages if stage.stage == "evaluate"]
    assert evaluations == [16] * 120 + [100]


def test_staged_starts_are_all_that_the_staged_pipeline_changes(repository: Path) -> None:
    published, staged = (
        make_plan(repository / "pipelines" / f"{name}.yaml", game="Qbert") for name in ("atari100k", "atari100k-staged")
    )
    places = [{(stage.phase, stage.round, stage.stage) for stage in plan.stages} for plan in (published, staged)]

    assert places[0] - places[1] == set()
    assert places[1] - places[0] == {
        *(("round", number, "train-dynamics") for number in range(16, 26)),
        *(("round", number, "train-actor-critic") for number in range(36, 51)),
    }
    settings = [{stage.stage: stage.settings for stage in plan.stages} for plan in (published, staged)]
    assert settings[0] == settings[1]
    shared = set(staged.stages) & set(published.stages)
    assert [stage for stage in staged.stages if stage in shared] == published.stages
    names = ("agent", "config", "changes", "environment", "seed", "rounds")
    assert all(getattr(published, name) == getattr(staged, name) for name in names)
    assert (staged.run, staged.dataset) == (Path("runs/iris-qbert-0-staged"), Path("data/iris-qbert-0-staged.zarr"))


def test_make_atari100k_takes_any_pipeline(repository: Path) -> None:
    make = ("make", "-n", "-o", ".venv/installed", "atari100k", "PIPELINE=atari100k-staged", "GAME=Qbert")

    said = subprocess.run(make, cwd=repository, check=True, capture_output=True, text=True).stdout

    assert "iris run pipelines/atari100k-staged.yaml --agent iris --game Qbert --seed 0" in said


def test_atari_100k_of_delta_iris_is_the_published_schedule(repository: Path) -> None:
    planned = make_plan(repository / "pipelines" / "atari100k-delta-iris.yaml", game="Qbert")

    assert planned.totals() == {
        "environment steps": 100_000,
        "tokenizer updates": 119_000,
        "dynamics updates": 66_000,
        "actor-critic updates": 105_000,
    }
    assert (planned.agent, planned.config.preset, planned.rounds) == ("delta-iris", "atari", 600)
    assert all(stage.settings.temperature == 1.0 for stage in planned.stages if stage.stage == "evaluate")


def test_crafter_of_delta_iris_is_the_published_schedule(repository: Path) -> None:
    planned = make_plan(repository / "pipelines" / "crafter-delta-iris.yaml")
    collects = [stage for stage in planned.stages if stage.stage == "collect"]
    evaluations = [stage for stage in planned.stages if stage.stage == "evaluate" and stage.round]

    assert planned.totals() == {
        "environment steps": 10_000_000,
        "tokenizer updates": 504_500,
        "dynamics updates": 502_000,
        "actor-critic updates": 500_000,
    }
    assert (planned.agent, planned.config.preset, planned.rounds) == ("delta-iris", "crafter", 1000)
    assert planned.environment.id == "Crafter"
    assert {stage.settings.num_envs for stage in collects} == {16}
    assert (collects[0].settings.epsilon, collects[0].settings.steps) == (1.0, 100_000)
    assert {(stage.settings.epsilon, stage.settings.temperature) for stage in collects[1:]} == {(0.01, 1.0)}
    assert (collects[1].round, collects[-1].round) == (2, 991)
    assert [stage.round for stage in evaluations] == list(range(50, 1001, 50))
    protocol = [(s.settings.episodes, s.settings.num_envs, s.settings.temperature) for s in evaluations]
    assert set(protocol) == {(64, 32, 1.0)}
    first = [(stage.stage, stage.settings.updates) for stage in planned.stages if stage.round == 1]
    assert first == [("train-tokenizer", 5000), ("train-dynamics", 2500), ("train-actor-critic", 500)]


def test_atari_100k_of_twm_is_the_published_schedule(repository: Path) -> None:
    planned = make_plan(repository / "pipelines" / "atari100k-twm.yaml", game="Qbert")

    assert planned.totals() == {
        "environment steps": 100_000,
        "tokenizer updates": 24_000,
        "dynamics updates": 12_038,
        "actor-critic updates": 7_022,
        "agent updates": 125_000,
    }
    assert (planned.agent, planned.config.preset, planned.environment.view) == ("twm", "published", "grey-stack")
    of_a_round = {stage.stage: stage.settings for stage in planned.stages if stage.round == 1}
    assert of_a_round["collect"].steps / of_a_round["train-agent"].updates == steps_per_update(planned.config) == 0.76
    assert (planned.stages[0].settings.epsilon, of_a_round["collect"].epsilon) == (1.0, 0.0)
    evaluations = [stage.settings for stage in planned.stages if stage.stage == "evaluate"]
    assert [settings.episodes for settings in evaluations] == [10] * 19 + [100]
    assert {settings.temperature for settings in evaluations} == {1.0}


def test_make_atari100k_plans_each_agent_s_schedule(repository: Path) -> None:
    make = ("make", "-n", "-o", ".venv/installed", "atari100k", "AGENT=twm", "GAME=Qbert")

    said = subprocess.run(make, cwd=repository, check=True, capture_output=True, text=True).stdout

    assert "iris run pipelines/atari100k-twm.yaml --agent twm --game Qbert --seed 0" in said


def test_the_demo_is_small_and_ends_with_a_video(repository: Path) -> None:
    planned = make_plan(repository / "pipelines" / "demo.yaml")

    assert planned.environment.name == "Pong"
    assert planned.config.preset == "small"
    assert planned.stages[-1].stage == "imagine"


def test_options_stand_in_place_of_the_file(tmp_path: Path) -> None:
    text = (
        "game: Pong\nseed: 1\npreset: small\nrun: runs/{agent}-{game}-{seed}\ndataset: d/{game}.zarr\nfirst: [collect]"
    )

    planned = plan(text, tmp_path, game="ms_pacman", seed=7, preset="tiny")

    assert planned.environment.id == "ALE/MsPacman-v5"
    assert (planned.seed, planned.config.preset) == (7, "tiny")
    assert planned.run == Path(f"runs/iris-{planned.environment.stem}-7")
    assert planned.dataset == Path(f"d/{planned.environment.stem}.zarr")


def test_assignments_reach_the_file_its_stages_and_the_agent(tmp_path: Path) -> None:
    text = "rounds: 9\nround:\n  - collect: {steps: 5}\n  - evaluate: {every: 3}\nthen: [evaluate]"
    assignments = (
        "rounds=4", "collect.steps=7", "collect.until=2", "evaluate.episodes=3", "tokenizer.preset=light",
        "tokenizer.codes=99",
    )  # fmt: skip

    planned = plan(text, tmp_path, assignments=assignments)

    assert labels(planned) == ["round 1 collect", "round 2 collect", "round 3 evaluate", "then evaluate"]
    assert planned.stages[0].settings == Collect(steps=7)
    assert planned.stages[-1].settings == Evaluate(episodes=3)
    assert planned.config.tokenizer.network == "strided"
    assert planned.config.tokenizer.codes == 99


def test_settings_of_the_file_change_the_preset(tmp_path: Path) -> None:
    planned = plan("preset: tiny\nsettings: {dynamics: {learning_rate: 1e-3}}\nfirst: [collect]", tmp_path)

    assert planned.config.dynamics.learning_rate == 1e-3
    assert planned.config.dynamics.layers == 2


def test_rounds_without_a_number_are_one(tmp_path: Path) -> None:
    assert labels(plan("round: [collect]", tmp_path)) == ["round 1 collect"]


def test_planning_touches_nothing(tmp_path: Path) -> None:
    plan("first: [collect]\nrun: r\ndataset: d.zarr", tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["p.yaml"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("rounds: -1\nround: [collect]", 1),
        ("round:\n  - evaluate: {every: 0}", 2),
        ("round:\n  - evaluate: {every: often}", 2),
        ("first:\n  - evaluate: {episodes: 0}", 2),
        ("first:\n  - evaluate: {max_steps: 0}", 2),
        ("first:\n  - evaluate: {seed: -1}", 2),
        ("first:\n  - imagine: {temperature: 0}", 2),
        ("first: [collect]\nrun: runs/{player}", 2),
        ("first: [collect]\nrun: 3", 2),
        ("first: [collect]\nseed: 4294967296", 2),
        ("first:\n  - collect: {}\n    evaluate: {}", 2),
    ],
)
def test_what_cannot_be_is_refused_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(ConfigError, match=rf"p\.yaml:{line}"):
        plan(text, tmp_path)
