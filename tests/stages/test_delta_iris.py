"""What the stages do for an agent whose tokens stand for transitions. What all agents share is tested for both."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result

from iris_cli import interrupts, load_agent
from iris_cli.errors import CheckpointError, ConfigError, Interrupted
from iris_cli.replay import frames
from iris_cli.run import Run
from iris_cli.stages import training
from iris_cli.stages.collect import Collect, collect
from iris_cli.stages.diagnose import Diagnose, diagnose
from iris_cli.stages.evaluate import Evaluate, evaluate
from iris_cli.stages.exchange import export_checkpoint
from iris_cli.stages.imagine import Imagine, imagine
from iris_cli.stages.tokenize import Tokenize, tokenize
from iris_cli.stages.train_actor_critic import TrainActorCritic, train_actor_critic
from iris_cli.stages.train_dynamics import TrainDynamics, train_dynamics
from iris_cli.stages.train_tokenizer import TrainTokenizer, train_tokenizer
from iris_cli.stages.training import needs_steps

NewRun = Callable[..., Run]


@pytest.fixture
def run(pong: Path, new_run: NewRun) -> Run:
    """A tiny run that passes for trained."""
    run = new_run(pong, agent="delta-iris")
    run.updates = dict.fromkeys(run.updates, 1)
    return run


def test_the_tokenizer_learns_transitions(pong: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "REPORT_EVERY", 10)
    run = new_run(pong, agent="delta-iris", tokenizer={"segment_length": 3})
    losses: list[float] = []
    monkeypatch.setattr(run, "log", lambda **metrics: losses.append(metrics["l2_loss"]))

    report = train_tokenizer(run, TrainTokenizer(updates=40))

    assert losses[-1] < 0.5 * losses[0]
    assert report.figures["loss"] == run.tokenizer_loss == "published"
    assert run.agent.tokenizer.quantizer.num_codebook_updates == 40


def test_frames_that_do_not_fit_stay_on_disk_and_teach_the_same(
    pong: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [new_run(pong, agent="delta-iris", name=name) for name in ("roomy", "full")]
    train_tokenizer(runs[0], TrainTokenizer(updates=3))
    assert "Frames stay" not in capsys.readouterr().out
    monkeypatch.setattr(frames, "has_room", lambda needed, device: False)
    training._tell_place.cache_clear()

    train_tokenizer(runs[1], TrainTokenizer(updates=3))
    needs_steps(runs[1].replay(), runs[1])

    said = " ".join(capsys.readouterr().out.split())
    assert said.count("Frames stay on disk, read as they are drawn: on cpu they would leave too little room") == 1
    assert [run.replay().place for run in runs] == ["device", "disk"]
    assert runs[0].fingerprint() == runs[1].fingerprint()


def test_each_component_counts_the_episodes_that_it_draws(run: Run) -> None:
    train_tokenizer(run, TrainTokenizer(updates=2))
    train_dynamics(run, TrainDynamics(updates=3))

    config = run.config
    assert run.visits("tokenizer").counts.sum() == 2 * config.tokenizer.batch_size
    assert run.visits("dynamics").counts.sum() == 3 * config.dynamics.batch_size
    assert len(run.visits("dynamics").counts) == run.replay().num_episodes


def test_the_draws_of_a_first_round_are_not_counted(run: Run) -> None:
    run.round = 1
    train_dynamics(run, TrainDynamics(updates=2))
    assert run.visits("dynamics").counts.sum() == 0

    run.round = 2
    train_dynamics(run, TrainDynamics(updates=2))
    assert run.visits("dynamics").counts.sum() == 2 * run.config.dynamics.batch_size


def test_collecting_evaluating_and_imagining_work(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = run.dataset().num_steps

    collect(run, Collect(steps=3))
    report = evaluate(run, Evaluate(episodes=1, max_steps=2))
    for policy in ("agent", "dataset"):
        imagine(run, Imagine(render=tmp_path / f"{policy}.png", steps=3, num=1, policy=policy, context=2))

    assert run.dataset().num_steps == before + 3
    assert (tmp_path / "agent.png").is_file()
    world = json.loads(report.files["report"].read_text())["world_model"]
    assert (world["steps"], world["dynamics"]["tokens_of"]) == (2, "transitions")


def test_a_diagnosis_knows_what_a_transition_token_is(run: Run) -> None:
    report = diagnose(run, Diagnose(steps=40, horizon=3))

    content = json.loads(report.files["report"].read_text())
    parts = ("tokenizer", "dynamics", "rewards", "ends", "dream", "policy")
    assert all(content["world_model"][part] for part in parts)
    assert content["world_model"]["tokenizer"]["past_image"]["absolute"] > 0
    assert len(content["world_model"]["dynamics"]["position_accuracy"]) == 4
    cells = " ".join(
        str(cell) for section in report.sections for row in (section.columns, *section.rows) for cell in row
    )
    titles = " ".join(section.title for section in report.sections)
    assert "if all were as in the frame before" in cells
    assert "tokens right where something moves" in cells
    assert "copying" not in cells + titles
    assert content["hints"]


@pytest.mark.parametrize(("section", "name"), [("exploration", "bonus"), ("actor_critic", "objective")])
def test_variants_of_iris_are_no_settings_of_it(pong: Path, new_run: NewRun, section: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown setting '({section}|{name})'"):
        new_run(pong, agent="delta-iris", **{section: {name: "imagined"}})


def test_there_are_no_tokens_of_frames_to_store(run: Run) -> None:
    with pytest.raises(ConfigError, match="train-dynamics"):
        tokenize(run, Tokenize())


def test_settings_of_learning_can_change_while_a_run_goes_on(run: Run) -> None:
    before = {name: value.clone() for name, value in run.agent.state_dict().items()}

    sentences = run.change(
        {"tokenizer": {"revival_updates": "7"}, "actor_critic": {"gamma": "0.9"}}, where=lambda *keys: "test"
    )

    assert len(sentences) == 2
    assert run.agent.tokenizer.config.revival_updates == 7
    assert run.agent.actor_critic.config.gamma == 0.9
    assert all(torch.equal(before[name], value) for name, value in run.agent.state_dict().items())
    with pytest.raises(ConfigError, match="codes is 32"):
        run.change({"tokenizer": {"codes": "64"}}, where=lambda *keys: "test")


def test_the_command_makes_a_run_of_it(workplace: Path, command: Callable[..., Result]) -> None:
    result = command(
        "train-tokenizer", "data/pong.zarr", "--run", "runs/delta", "--agent", "delta-iris", "--preset", "tiny",
        "--updates", "1",
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    assert "delta-iris, preset tiny" in result.output


# The tokenizer of the workshop paper

TRANSFORMER = {"agent": "delta-iris", "tokenizer": {"variant": "transformer"}}
TRAINING = {
    "tokenizer": lambda run, updates: train_tokenizer(run, TrainTokenizer(updates=updates)),
    "dynamics": lambda run, updates: train_dynamics(run, TrainDynamics(updates=updates)),
    "actor_critic": lambda run, updates: train_actor_critic(run, TrainActorCritic(updates=updates)),
}


@pytest.mark.pipeline  # four seconds
def test_the_transformer_goes_through_every_stage(pong: Path, new_run: NewRun, tmp_path: Path) -> None:
    run = new_run(pong, **TRANSFORMER)

    for train in TRAINING.values():
        train(run, 2)
    collect(run, Collect(steps=3))
    evaluate(run, Evaluate(episodes=1, max_steps=2))
    imagine(
        run, Imagine(render=tmp_path / "dream.png", steps=6, num=1, context=2, warm_up=2)
    )  # beyond the tokenizer's positions
    report = diagnose(run, Diagnose(steps=20, horizon=5))

    world = json.loads(report.files["report"].read_text())["world_model"]
    assert all(world[part] for part in ("tokenizer", "dynamics", "rewards", "ends", "dream", "policy"))
    assert (tmp_path / "dream.png").is_file()
    run.save()
    agent = load_agent(run.directory, device="cpu")
    frames = torch.randint(0, 256, (2, 3, 3, 64, 64), dtype=torch.uint8)
    tokens = agent.tokenizer.encode(frames[0], torch.zeros(3, dtype=torch.int64), frames[1])
    assert tokens.shape == (3, 4)
    assert agent.tokenizer.decode(frames[0], torch.zeros(3, dtype=torch.int64), tokens).shape == (3, 3, 64, 64)
    with pytest.raises(CheckpointError, match="no place for a transformer tokenizer"):
        export_checkpoint(run, tmp_path / "last.pt")
    assert not (tmp_path / "last.pt").exists()


def test_the_transformer_learns_to_reconstruct(pong: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "REPORT_EVERY", 10)
    run = new_run(pong, **TRANSFORMER)
    losses: list[float] = []
    monkeypatch.setattr(run, "log", lambda **metrics: losses.append(metrics["l2_loss"]))

    train_tokenizer(run, TrainTokenizer(updates=40))

    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("component", TRAINING)
def test_with_the_transformer_a_stopped_training_goes_on_bit_for_bit(
    pong: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch, component: str
) -> None:
    whole, run = (new_run(pong, name=name, **TRANSFORMER) for name in ("whole", "part"))
    for each in (whole, run):
        each.updates = dict.fromkeys(each.updates, 1)
    TRAINING[component](whole, 4)
    with monkeypatch.context() as patch:
        patch.setattr(interrupts, "requested", lambda: run.progress is not None and run.progress.done >= 2)
        with pytest.raises(Interrupted):
            TRAINING[component](run, 4)
    run.close()
    again = Run.open(run.directory, device=run.device, training=True)
    TRAINING[component](again, 4)

    assert again.fingerprint() == whole.fingerprint()
    states = [each.optimizer(component).state_dict()["state"] for each in (whole, again)]
    assert all(torch.equal(states[0][key][name], states[1][key][name]) for key in states[0] for name in states[0][key])
    again.close()


def test_a_run_keeps_its_tokenizer_s_variant(pong: Path, new_run: NewRun) -> None:
    run = new_run(pong, agent="delta-iris")

    with pytest.raises(ConfigError, match=r"tokenizer\.variant is convolutional in this run's network"):
        run.change({"tokenizer": {"variant": "transformer"}}, where=lambda *keys: "test")
