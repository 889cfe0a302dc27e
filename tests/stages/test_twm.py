"""What the stages do for an agent that sees grey stacks and learns jointly. What all agents share is tested for all."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result

from iris_cli import interrupts
from iris_cli.envs.spec import EnvSpec
from iris_cli.errors import ConfigError, Interrupted, TrainingError
from iris_cli.failures import read_failure
from iris_cli.open_run import environment_for
from iris_cli.pipeline import execute
from iris_cli.plan import make_plan
from iris_cli.replay.dataset import Dataset
from iris_cli.run import Run
from iris_cli.stages import training
from iris_cli.stages.collect import Collect, collect, collect_randomly
from iris_cli.stages.diagnose import Diagnose, diagnose
from iris_cli.stages.evaluate import Evaluate, evaluate
from iris_cli.stages.imagine import Imagine, imagine
from iris_cli.stages.tokenize import Tokenize, tokenize
from iris_cli.stages.train_actor_critic import TrainActorCritic, train_actor_critic
from iris_cli.stages.train_agent import TrainAgent, train_agent
from iris_cli.stages.train_dynamics import TrainDynamics, train_dynamics
from iris_cli.stages.train_tokenizer import TrainTokenizer, train_tokenizer

NewRun = Callable[..., Run]
COMPONENTS = {"tokenizer", "dynamics", "actor_critic"}


@pytest.fixture
def stacks(pong_for: Callable[[str], Path]) -> Path:
    """120 steps of Pong at random, as grey stacks."""
    return pong_for("twm")


@pytest.fixture
def run(stacks: Path, new_run: NewRun) -> Run:
    """A tiny run."""
    return new_run(stacks, agent="twm")


def weights(run: Run) -> dict[str, torch.Tensor]:
    return copy.deepcopy(run.agent.state_dict())


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}


def reopened(run: Run) -> Run:
    run.save()
    run.close()
    return Run.open(run.directory, device=run.device, training=True)


# Collecting


def test_whole_stacks_are_stored_the_newest_frame_last(stacks: Path) -> None:
    dataset = Dataset.open(stacks)
    observations = dataset.read("observations")

    assert observations.shape == (120, *dataset.frame_shape) == (120, 64, 64, 4)
    assert np.array_equal(observations[1:, ..., :3], observations[:-1, ..., 1:])
    assert observations.std() > 0


def test_terminations_and_truncations_stay_apart(tmp_path: Path, new_run: NewRun) -> None:
    toy = environment_for("twm", "toy_game:Toy")
    limited = replace(environment_for("twm", "Pong"), max_frames=40)
    assert (toy.view, limited.view) == ("grey-stack", "grey-stack")
    collect_randomly(tmp_path / "toy.zarr", toy, Collect(steps=65), seed=0)
    collect_randomly(tmp_path / "limited.zarr", limited, Collect(steps=25), seed=0)

    for name, ended, other in (
        ("toy", "terminations", "truncations"),
        ("limited", "truncations", "terminations"),
    ):
        dataset = Dataset.open(tmp_path / f"{name}.zarr")
        assert dataset.read(ended).any()
        assert not dataset.read(other).any()


def test_a_run_collects_with_its_policy_which_reads_no_steps_before(run: Run) -> None:
    collect(run, Collect(steps=5, epsilon=0.0))

    assert run.dataset().num_steps == 125
    assert run.config.actor_critic.burn_in == 0


def test_what_it_cannot_see_is_refused(pong: Path, stacks: Path, new_run: NewRun, tmp_path: Path) -> None:
    environment = EnvSpec.from_mapping(Dataset.open(pong).environment)
    for agent, seen in (("twm", environment), ("iris", environment.as_grey_stacks())):
        with pytest.raises(ConfigError, match=rf"{agent} sees .* frames.*--agent {agent}"):
            Run.create(
                tmp_path / "new", agent=agent, config=None, environment=seen, num_actions=6, dataset=pong, seed=0,
                device=torch.device("cpu"),
            )  # fmt: skip
    assert not (tmp_path / "new").exists()


# Before the joint updates


def test_the_tokenizer_learns_from_passes_over_all_stacks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "REPORT_EVERY", 10)
    losses: list[float] = []
    monkeypatch.setattr(run, "log", lambda **metrics: losses.append(metrics["pixel_error"]))

    train_tokenizer(run, TrainTokenizer(updates=30))  # two passes of 15 batches

    assert losses[-1] < 0.8 * losses[0]
    assert len(run.visits("tokenizer").left) == 0
    assert run.tokenizer_loss == "published"


def test_a_pass_draws_each_step_once_and_its_rest_lies_in_the_checkpoint(run: Run) -> None:
    replay, visits, draws = run.replay(), run.visits("tokenizer"), torch.Generator().manual_seed(0)
    drawn = [run.agent.tokenizer_batch(replay, draws, 50, visits=visits) for _ in range(2)]
    again = reopened(run)
    drawn.append(again.agent.tokenizer_batch(replay, draws, 50, visits=again.visits("tokenizer")))
    again.close()

    assert [len(batch) for batch in drawn] == [50, 50, 20]
    together = torch.cat(drawn).flatten(1)
    assert torch.equal(together.unique(dim=0), replay.frames_at(slice(None)).flatten(1).unique(dim=0))


def test_before_the_joint_updates_nothing_is_counted(run: Run) -> None:
    train_tokenizer(run, TrainTokenizer(updates=1))
    train_dynamics(run, TrainDynamics(updates=2))
    train_actor_critic(run, TrainActorCritic(updates=2))

    assert all(len(run.visits(name).counts) == 0 for name in COMPONENTS)


def test_windows_of_a_pass_have_squashed_rewards(tmp_path: Path, new_run: NewRun) -> None:
    collect_randomly(tmp_path / "toy.zarr", environment_for("twm", "toy_game:Toy"), Collect(steps=60), seed=0)
    run = new_run(tmp_path / "toy.zarr", agent="twm", game="toy_game:Toy")
    windows = run.agent.dynamics_batch(run.replay(), torch.Generator(), 50, visits=run.visits("dynamics"))

    torch.testing.assert_close(windows.rewards.unique(), torch.tensor([0.0, 1.0]).tanh())


def test_there_are_no_tokens_to_store(run: Run) -> None:
    run.updates = dict.fromkeys(COMPONENTS, 1)

    with pytest.raises(ConfigError, match="twm has no tokens"):
        tokenize(run, Tokenize())


# Together


def test_joint_training_changes_and_counts_all_components(run: Run) -> None:
    before = weights(run)

    report = train_agent(run, TrainAgent(updates=3))

    assert changed(before, weights(run)) == COMPONENTS
    assert run.updates == dict.fromkeys(("tokenizer", "dynamics", "actor_critic"), 3)
    assert not any(module.training for module in run.agent.modules())
    names = ("loss_tokenizer", "loss_dynamics", "loss_consistency", "loss_actions", "loss_values")
    norms = ("gradient_norm", "gradient_norm_tokenizer", "gradient_norm_actor", "gradient_norm_critic")
    assert all(report.figures[name] != 0 for name in (*names, *norms))


def test_each_window_counts_where_it_begins(run: Run) -> None:
    train_agent(run, TrainAgent(updates=3))

    counts = run.visits("dynamics").counts
    length = run.config.dynamics.segment_length
    assert len(counts) == 120
    assert counts.sum() == 3 * run.config.dynamics.batch_size
    assert not counts[120 - length :].any()  # the step after a window's last has to be there


def test_the_world_model_learns_jointly(stacks: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "REPORT_EVERY", 10)
    run, lines = new_run(stacks, agent="twm"), []
    monkeypatch.setattr(run, "log", lambda **metrics: lines.append(metrics))

    train_agent(run, TrainAgent(updates=40))

    for name in ("pixel_error", "loss_latents", "loss_discounts"):
        assert lines[-1][name] < 0.9 * lines[0][name], name


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("dynamics", "reads_rewards", False),
        ("dynamics", "sampling_temperature", None),
        ("actor_critic", "entropy_threshold", 1.0),
        ("actor_critic", "reads_hidden", True),
    ],
)
def test_the_paper_s_ablations_are_settings(
    stacks: Path, new_run: NewRun, tmp_path: Path, section: str, name: str, value: object
) -> None:
    run = new_run(stacks, agent="twm", **{section: {name: value}})
    run.updates["tokenizer"] = 1
    train_dynamics(run, TrainDynamics(updates=2))
    train_actor_critic(run, TrainActorCritic(updates=2))
    train_agent(run, TrainAgent(updates=2))

    again = reopened(run)
    train_agent(again, TrainAgent(updates=2))
    collect(again, Collect(steps=3, epsilon=0.0))
    evaluate(again, Evaluate(episodes=2, num_envs=2, max_steps=6, measured_steps=8))
    imagine(again, Imagine(render=tmp_path / "a.png", num=1, steps=2, warm_up=3))

    assert again.updates == {"tokenizer": 5, "dynamics": 6, "actor_critic": 6}
    assert getattr(getattr(again.config, section), name) == value
    again.close()


def test_a_diagnosis_tells_of_latents(run: Run) -> None:
    run.updates = dict.fromkeys(COMPONENTS, 1)

    report = diagnose(run, Diagnose(steps=30, horizon=3))

    rows = {str(row[0]): row for section in report.sections for row in section.rows}
    assert rows["classes used"][2] == "of 20 of 4 categoricals"
    assert str(rows["entropy of what is drawn from"][1]).endswith(" %")
    assert str(rows["tokens right"][2]).endswith("copying the last latent")
    assert not any("by place" in section.title for section in report.sections)
    world = json.loads(report.files["report"].read_text())["world_model"]
    assert 0 <= world["tokenizer"]["latent_entropy"] <= 1
    assert world["dream"]["starts"] > 0


def test_an_interrupt_stops_after_an_update_and_the_rest_makes_it_whole(
    stacks: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run = (new_run(stacks, name=name, agent="twm") for name in ("whole", "part"))
    train_agent(whole, TrainAgent(updates=4))
    with monkeypatch.context() as patch:
        patch.setattr(interrupts, "requested", lambda: run.progress is not None and run.progress.done >= 2)
        with pytest.raises(Interrupted, match="after update 2 of 4; the same command goes on"):
            train_agent(run, TrainAgent(updates=4))
    run.close()

    again = Run.open(run.directory, device=run.device, training=True)
    train_agent(again, TrainAgent(updates=4))

    assert changed(weights(whole), weights(again)) == set()
    assert torch.equal(whole.visits("dynamics").counts, again.visits("dynamics").counts)
    for component in COMPONENTS:
        states = [run.optimizer(component).state_dict()["state"] for run in (whole, again)]
        assert all(torch.equal(states[0][k][n], states[1][k][n]) for k in states[0] for n in states[0][k])
    again.close()


def test_an_update_that_is_not_finite_is_kept_with_its_windows(run: Run) -> None:
    with torch.no_grad():
        next(run.agent.actor_critic.critic_model.parameters()).fill_(torch.nan)

    said = "loss_actions of the dynamics and tokenizer and actor-critic became nan in update 1"
    with pytest.raises(TrainingError, match=said):
        train_agent(run, TrainAgent(updates=2))

    failure = read_failure(next((run.directory / "failures").glob("*.safetensors")))
    assert {"stacks", "actions", "fresh"} <= failure.batch.keys()


def test_agents_that_learn_one_by_one_have_no_joint_training(pong: Path, new_run: NewRun, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("{game: Pong, first: [{train-agent: {updates: 1}}]}")

    with pytest.raises(ConfigError, match="'iris' are trained one by one"):
        train_agent(new_run(pong), TrainAgent(updates=1))
    with pytest.raises(ConfigError, match="'iris' are trained one by one"):
        make_plan(tmp_path / "p.yaml")


def test_without_a_number_the_updates_are_those_of_the_schedule(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "train", lambda run, lesson, updates: training._plan(run, lesson))
    monkeypatch.setattr("iris_cli.stages.train_agent.train", training.train)

    assert train_agent(run, TrainAgent()) == run.agent.planned_updates("train-agent", 120)
    assert "as the settings of the schedule say for 120 steps" in " ".join(capsys.readouterr().out.split())


def test_the_commands_collect_for_it_and_train_it(
    workplace: Path, command: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ("data/stacks.zarr", "--run", "runs/twm")
    results = [
        command("collect", "--env", "Pong", "--agent", "twm", "--steps", "40", "--out", "data/stacks.zarr"),
        command("train-agent", *made, "--agent", "twm", "--preset", "tiny", "--updates", "1"),
        command("train-tokenizer", *made, "--updates", "1"),
        command("collect", "--run", "runs/twm", "--agent", "twm", "--steps", "2"),
    ]
    refused = command("collect", "--run", "runs/twm", "--agent", "iris", "--steps", "2")

    assert [result.exit_code for result in results] == [0, 0, 0, 0], [result.output for result in results]
    assert "the run has agent twm, not iris" in refused.output


@pytest.mark.pipeline
def test_a_tiny_pipeline_goes_through_all_phases_on_real_pong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = make_plan(
        repository / "pipelines" / "atari100k-twm.yaml", game="Pong", preset="tiny",
        assignments=(
            "rounds=2", "train-tokenizer.updates=5", "train-dynamics.updates=5", "train-actor-critic.updates=5",
            "train-agent.updates=5", "evaluate.episodes=1", "evaluate.max_steps=10",
        ),
    )  # fmt: skip
    stages = [replace(s, settings=Collect(steps=60, epsilon=1.0)) if s.phase == "first" and s.stage == "collect" else s
              for s in plan.stages]  # fmt: skip

    execute(replace(plan, stages=stages), device="cpu")

    run = Run.open(plan.run, device=torch.device("cpu"))
    assert run.updates == dict.fromkeys(("tokenizer", "dynamics", "actor_critic"), 15)
    assert run.collected["steps"] == 60 + 2 * 19
    assert run.visits("dynamics").counts.sum() == 2 * 5 * run.config.dynamics.batch_size
    reports = [json.loads(path.read_text()) for path in (plan.run / "reports").glob("evaluate-*.json")]
    assert len(reports) == 2  # after pre-training and at the end; in the rounds it is not due so soon
    assert {report["protocol"]["temperature"] for report in reports} == {1.0}
