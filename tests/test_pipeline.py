"""A pipeline file becomes the plan it says, and the plan is carried out once, however often it is started."""

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from iris_cli import interrupts, pipeline
from iris_cli import plan as plan_of_files
from iris_cli.config import to_mapping
from iris_cli.errors import ConfigError, DatasetError, Interrupted, RunError
from iris_cli.pipeline import execute
from iris_cli.plan import Plan, make_plan
from iris_cli.replay.dataset import Dataset
from iris_cli.run import Run
from iris_cli.stages.evaluate import Evaluate, evaluate
from iris_cli.stages.imagine import Imagine, imagine
from iris_cli.stages.tokenize import Tokenize, tokenize
from iris_cli.stages.train_actor_critic import TrainActorCritic, train_actor_critic
from iris_cli.stages.train_dynamics import TrainDynamics, train_dynamics
from iris_cli.stages.train_tokenizer import TrainTokenizer, train_tokenizer

TINY = """
preset: tiny
game: "toy_game:Toy"
dataset: data/p.zarr
run: runs/p
rounds: 2
round:
  - collect: {steps: 12}
  - train-tokenizer: {updates: 2}
  - evaluate: {episodes: 1, max_steps: 3, every: 2}
"""
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a pipeline file into the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)  # for the toy game

    def write(text: str, name: str = "p.yaml") -> Path:
        Path(name).write_text(text)
        return Path(name)

    return write


def stages(plan: Plan) -> list[tuple[str, int | None]]:
    return [(planned.stage, planned.round) for planned in plan.stages]


def position(directory: str = "runs/p") -> int:
    cursor = Run.open(Path(directory), device=torch.device("cpu")).cursor
    assert cursor is not None
    return cursor["position"]


# Planning


def test_rounds_are_unrolled_with_every_from_and_until(write: Write) -> None:
    plan = make_plan(
        write(
            "game: Pong\nfirst: [{collect: {steps: 5}}]\nrounds: 4\nround:\n"
            "  - collect: {steps: 3, until: 2}\n  - train-tokenizer: {updates: 7, from: 3}\n  - tokenize: {every: 2}\n"
            "then: [evaluate]\n"
        )
    )
    assert stages(plan) == [
        ("collect", None), ("collect", 1), ("collect", 2), ("tokenize", 2), ("train-tokenizer", 3),
        ("train-tokenizer", 4), ("tokenize", 4), ("evaluate", None),
    ]  # fmt: skip
    assert plan.totals() == {
        "environment steps": 11, "tokenizer updates": 14, "dynamics updates": 0, "actor-critic updates": 0
    }  # fmt: skip


def test_atari_100k_has_the_published_totals(repository: Path) -> None:
    plan = make_plan(repository / "pipelines" / "atari100k.yaml", game="Qbert")
    assert list(plan.totals().values()) == [100_000, 119_000, 115_000, 110_000]
    assert plan.rounds == 600
    assert plan.config.preset == "published"


def test_names_in_paths_are_filled_in_and_options_come_first(write: Write) -> None:
    path = write("dataset: d/{game}.zarr\nrun: r/{agent}-{game}-{seed}\nseed: 3\nround: [{collect: {steps: 1}}]\n")
    plan = make_plan(path, game="ms_pacman", seed=7, preset="tiny", assignments=("rounds=2", "collect.steps=9"))
    assert (plan.dataset, plan.run) == (Path("d/mspacman.zarr"), Path("r/iris-mspacman-7"))
    assert (plan.seed, plan.config.preset, plan.totals()["environment steps"]) == (7, "tiny", 18)


def test_settings_of_the_agent_come_from_the_file_and_then_from_set(write: Write) -> None:
    path = write("game: Pong\nsettings: {tokenizer: {learning_rate: 1e-3}, dynamics: {layers: 3}}\nround: [collect]\n")
    plan = make_plan(path, assignments=("dynamics.layers=4",))
    assert (plan.config.tokenizer.learning_rate, plan.config.dynamics.layers) == (1e-3, 4)


@pytest.mark.parametrize(
    "text", ["game: Pong\n", "game: Pong\nrounds: 0\nround: [collect]\n", "game: Pong\nfirst: []\n"]
)
def test_a_pipeline_without_stages_is_refused(write: Write, text: str) -> None:
    with pytest.raises(ConfigError, match="no stages"):
        make_plan(write(text))


# Carrying out


def test_a_finished_pipeline_is_not_carried_out_again(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(write(TINY))
    report = execute(plan, device="cpu")
    assert report.files["report"] == Path("runs/p/reports/evaluate-round-0002.json")

    def contents() -> dict[Path, bytes]:  # a lock says since when it is held
        return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file() and path.name != ".lock"}

    before = contents()
    capsys.readouterr()

    execute(plan, device="cpu")

    assert "everything is done already" in " ".join(capsys.readouterr().out.split())
    assert contents() == before
    lines = [json.loads(line) for line in Path("runs/p/metrics.jsonl").read_text().splitlines()]
    done = [(line["stage"], line["round"]) for line in lines if line.get("event") == "stage"]
    assert done == stages(plan)


def test_more_rounds_go_on_from_the_end(write: Write) -> None:
    execute(make_plan(write(TINY), assignments=("rounds=1",)), device="cpu")
    assert position() == 2
    execute(make_plan(write(TINY)), device="cpu")
    assert position() == 5
    assert Dataset.open("data/p.zarr").num_steps == 24


def test_a_crash_in_any_stage_loses_nothing_that_was_saved(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, perform = make_plan(write(TINY)), pipeline._perform
    whole = make_plan(write(TINY.replace("/p", "/whole"), "whole.yaml"))
    execute(whole, device="cpu")
    crashed: set[int] = set()

    def crash_once(run: Run, planned: Any) -> Any:
        report = perform(run, planned)  # the work is done, but not yet saved
        if id(planned) not in crashed:
            crashed.add(id(planned))
            raise MemoryError
        return report

    monkeypatch.setattr("iris_cli.run.SAVE_SECONDS", 0)
    monkeypatch.setattr(pipeline, "_perform", crash_once)
    for _ in plan.stages:
        with pytest.raises(MemoryError):
            execute(plan, device="cpu")
    execute(plan, device="cpu")

    runs = [Run.open(Path(path), device=torch.device("cpu"), training=True) for path in ("runs/p", "runs/whole")]
    assert runs[0].fingerprint() == runs[1].fingerprint()
    data = [Dataset.open(path) for path in ("data/p.zarr", "data/whole.zarr")]
    assert data[0].read("observations").tobytes() == data[1].read("observations").tobytes()
    assert data[0].attributes["collector"] == data[1].attributes["collector"]


def test_a_first_collection_that_fails_midway_leaves_its_run_which_alone_may_go_on(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, append = make_plan(write(TINY)), Dataset.append

    def fill_the_disk(dataset: Dataset, **steps: Any) -> None:
        if dataset.num_steps:
            raise DatasetError("the array actions cannot be written: No space left on device", where=dataset.path)
        append(dataset, **steps)

    monkeypatch.setattr("iris_cli.stages.collect.COMMIT_STEPS", 5)
    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "append", fill_the_disk)
        with pytest.raises(DatasetError, match="No space left"):
            execute(plan, device="cpu")
    assert Dataset.open("data/p.zarr").num_steps > 0

    execute(plan, device="cpu")

    assert Dataset.open("data/p.zarr").num_steps == 24
    assert len(Dataset.open("data/p.zarr").attributes["writers"]) == 1


def test_an_interrupted_stage_is_named_and_starts_again(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(write(TINY))
    with monkeypatch.context() as patch:
        patch.setattr(interrupts, "requested", lambda: True)
        with pytest.raises(Interrupted, match=r"Stopped in collect \(round 1\); the same command goes on"):
            execute(plan, device="cpu")
    assert position() == 0
    execute(plan, device="cpu")
    assert Dataset.open("data/p.zarr").num_steps == 24


# Refusing


@pytest.fixture
def done(write: Write) -> Path:
    """The file of a pipeline whose first round is done."""
    path = write(TINY)
    execute(make_plan(path, assignments=("rounds=1", "train-tokenizer.updates=1", "collect.steps=3")), device="cpu")
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 1}, "the run has seed 0, but the pipeline 1"),
        ({"game": "Breakout"}, "the run has another environment: id is 'toy_game:Toy' there, 'ALE/Breakout-v5' here"),
        ({"assignments": ("dataset=data/q.zarr",)}, "the run has dataset data/p.zarr, but the pipeline data/q.zarr"),
        ({"assignments": ("collect.steps=4",)}, "the run has done 2 stages of a pipeline, and they are not those"),
    ],
)
def test_a_run_of_another_pipeline_is_refused_and_free_again(done: Path, changes: dict[str, Any], said: str) -> None:
    given = {"assignments": ("train-tokenizer.updates=1", "collect.steps=3"), **changes}
    with pytest.raises(RunError, match=said):
        execute(make_plan(done, **given), device="cpu")
    Run.open(Path("runs/p"), device=torch.device("cpu"), training=True).close()


def test_a_dataset_that_someone_else_collected_is_never_cut(write: Write, workplace: Path) -> None:
    text = TINY.replace("data/p.zarr", "data/pong.zarr").replace("toy_game:Toy", "Pong")
    with pytest.raises(DatasetError, match="steps after 0 were collected by random"):
        execute(make_plan(write(text)), device="cpu")
    assert Dataset.open("data/pong.zarr").num_steps == 20


def test_a_run_that_is_in_use_is_refused(done: Path) -> None:
    run = Run.open(Path("runs/p"), device=torch.device("cpu"), training=True)
    with pytest.raises(RunError, match="is writing to the run"):
        execute(make_plan(done, assignments=("train-tokenizer.updates=1", "collect.steps=3")), device="cpu")
    run.close()


# Diagnosing


def test_a_diagnosis_in_a_pipeline_is_reported_and_logged_by_round(write: Write) -> None:
    text = TINY.replace("evaluate: {episodes: 1, max_steps: 3, every: 2}", "diagnose: {steps: 9, horizon: 2, every: 2}")
    execute(
        make_plan(write(text + "then: [{diagnose: {steps: 12, horizon: 2, dataset: data/p.zarr}}]\n")), device="cpu"
    )

    reports = {path.name: json.loads(path.read_text()) for path in Path("runs/p/reports").iterdir()}
    assert {name: report["world_model"]["steps"] for name, report in reports.items()} == {
        "diagnose-round-0002.json": 9, "diagnose-then.json": 12
    }  # fmt: skip
    lines = [json.loads(line) for line in Path("runs/p/metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if line["stage"] == "diagnose"]
    assert [line["round"] for line in logged] == [2, 2, None, None]  # its figures, and that the stage is done
    assert (
        logged[0]["moving_error"]
        == reports["diagnose-round-0002.json"]["world_model"]["tokenizer"]["reconstruction"]["moving_absolute"]
    )
    assert logged[1]["figures"]["weak_parts"] == "dynamics, policy, tokenizer"


def test_a_diagnosis_is_planned_with_its_settings(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.show_plan(make_plan(write(TINY + "then: [{diagnose: {steps: 500}}]\n")))

    assert "diagnose" in (shown := capsys.readouterr().out)
    assert "steps 500" in shown
    with pytest.raises(ConfigError, match="horizon is 0"):
        make_plan(write(TINY + "then: [{diagnose: {horizon: 0}}]\n"))


# What was done, and what is a default

UNSET = TINY.replace(", every: 2}", "}")  # evaluates in the first round, at a temperature that it does not name


def put_back(run: Path, then: dict[str, Any], stages: list[Any]) -> None:
    """Give a checkpoint the cursor that it had when cursors were digests of all settings, defaults included."""
    file = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip() / "state.json"
    state = json.loads(file.read_text())
    full = []
    for planned in stages[: state["cursor"]["position"]]:
        settings = to_mapping(planned.settings) | (then if planned.stage == "evaluate" else {})
        settings = {name: value for name, value in settings.items() if value != "absent"}
        full.append([planned.phase, planned.round, planned.stage, settings])
    state["cursor"] = {
        "position": state["cursor"]["position"], "done": hashlib.sha256(json.dumps(full).encode()).hexdigest()[:16]
    }  # fmt: skip
    file.write_text(json.dumps(state))
    (file.parent / "done").write_text("")  # as it was then: without checksums


@pytest.mark.parametrize(
    "then", [{}, {"temperature": 0.5}, {"temperature": 0.5, "measured_steps": "absent"}], ids=["now", "before", "0.1.0"]
)
def test_a_run_goes_on_that_passed_an_evaluation_under_other_defaults(write: Write, then: dict[str, Any]) -> None:
    path = write(UNSET)
    execute(make_plan(path, assignments=("rounds=1",)), device="cpu")
    plan = make_plan(path)
    put_back(plan.run, then, plan.stages)

    execute(plan, device="cpu")

    assert position() == 6


def test_a_default_that_changes_is_not_what_a_pipeline_said(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(UNSET)
    execute(make_plan(path, assignments=("rounds=1",)), device="cpu")

    monkeypatch.setitem(
        plan_of_files.SETTINGS,
        "evaluate",
        dataclasses.make_dataclass("Later", [("fresh", int, 3)], bases=(Evaluate,), frozen=True, kw_only=True),
    )
    plan = make_plan(path)

    assert plan.stages[2].settings.fresh == 3
    execute(plan, device="cpu")
    assert position() == 6


@pytest.mark.parametrize("then", [{"temperature": 0.7}, {"episodes": 2}])
def test_settings_that_were_never_those_are_refused(write: Write, then: dict[str, Any]) -> None:
    path = write(UNSET)
    execute(make_plan(path, assignments=("rounds=1",)), device="cpu")
    plan = make_plan(path)
    put_back(plan.run, then, plan.stages)

    with pytest.raises(RunError, match="they are not those of"):
        execute(plan, device="cpu")


# The order of stages

GAME = 'preset: tiny\ngame: "toy_game:Toy"\ndataset: data/p.zarr\nrun: runs/p\nfirst:\n'


@pytest.mark.parametrize(
    ("stages", "line", "said"),
    [
        (["train-tokenizer: {updates: 1}", "collect"], 6, r"train-tokenizer \(first\) needs steps"),
        (["collect", "train-dynamics: {updates: 1}"], 7, "train-dynamics .* needs a trained tokenizer"),
        (["collect", "tokenize"], 7, "tokenize .* needs a trained tokenizer"),
        (["collect", "imagine"], 7, "imagine .* needs a trained tokenizer"),
        (
            ["collect", "train-tokenizer: {updates: 1}", "train-actor-critic: {updates: 1}"], 8,
            "train-actor-critic .* needs a trained dynamics",
        ),
    ],
)  # fmt: skip
def test_stages_in_the_wrong_order_are_refused_before_anything_is_done(
    write: Write, stages: list[str], line: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(write(GAME + "".join(f"  - {stage}\n" for stage in stages)))

    for act in (pipeline.show_plan, execute):
        with pytest.raises(ConfigError, match=rf"{said}.*p\.yaml:{line}"):
            act(plan)
    assert [path.name for path in Path().iterdir()] == ["p.yaml"]
    assert capsys.readouterr().out == ""


def test_a_round_may_need_what_an_earlier_round_trained(write: Write) -> None:
    order = "rounds: 3\nround:\n  - tokenize: {from: 2}\n  - train-tokenizer: {updates: 1}\n  - collect: {steps: 5}\n"

    with pytest.raises(ConfigError, match=r"train-tokenizer \(round 1\) needs steps"):
        pipeline.show_plan(make_plan(write(GAME + "  - evaluate\n" + order)))
    pipeline.show_plan(make_plan(write(GAME + "  - collect\n" + order)))


def test_what_the_run_has_or_was_imported_with_need_not_be_trained_again(write: Write) -> None:
    before = GAME + "  - collect: {steps: 12}\n  - train-tokenizer: {updates: 1}\n"
    execute(make_plan(write(before)), device="cpu")
    later = before + "  - train-dynamics: {updates: 1}\n  - imagine: {steps: 2, num: 1, warm_up: 1, render: i.png}\n"

    execute(make_plan(write(later)), device="cpu")

    assert position() == 4
    fresh = make_plan(write(GAME + "  - train-dynamics: {updates: 1}\n"), assignments=("run=runs/q",))
    with pytest.raises(ConfigError, match="needs a trained tokenizer"):
        execute(fresh, device="cpu")
    run = Run.create(
        fresh.run, agent=fresh.agent, config=fresh.config, environment=fresh.environment, num_actions=6,
        dataset=fresh.dataset, seed=0, device=torch.device("cpu"), imported={"file": "last.pt", "sha256": ""},
    )  # fmt: skip
    run.close()
    execute(fresh, device="cpu")


def test_the_plan_knows_what_the_stages_themselves_refuse(workplace: Path) -> None:
    performed = {
        "tokenize": lambda run: tokenize(run, Tokenize()),
        "train-tokenizer": lambda run: train_tokenizer(run, TrainTokenizer(updates=1)),
        "train-dynamics": lambda run: train_dynamics(run, TrainDynamics(updates=1)),
        "train-actor-critic": lambda run: train_actor_critic(run, TrainActorCritic(updates=1)),
        "evaluate": lambda run: evaluate(run, Evaluate(episodes=1, max_steps=1, measured_steps=0)),
        "imagine": lambda run: imagine(run, Imagine(steps=1, num=1, warm_up=0, render=Path("i.png"))),
    }
    for name, stage in performed.items():
        directory, updates = Path("runs") / name, "updates: 1" if "train" in name else ""
        text = f"preset: tiny\ngame: Pong\ndataset: data/pong.zarr\nrun: {directory}\nfirst:\n"
        Path("order.yaml").write_text(text + f"  - {name}: {{{updates}}}\n")
        plan = make_plan(Path("order.yaml"))
        run = pipeline._open(plan, "cpu")
        try:
            stage(run)
            refused = ""
        except RunError as error:
            refused = str(error)
        run.close()
        shutil.rmtree(directory)
        try:
            pipeline.show_plan(plan)
            assert not refused, name
        except ConfigError as error:
            [component] = re.findall("needs a trained ([a-z-]+)", str(error))
            assert f"the {component} has not been trained" in refused
